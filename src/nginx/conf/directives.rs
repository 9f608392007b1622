//! The setters of the directives: what is written in nginx.conf, and what is wrong with it.

use std::ffi::c_char;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr};
use std::{mem, ptr};

use nginx_sys::{
    NGX_ERROR, NGX_LOG_EMERG, NGX_LOG_WARN, NGX_OK, NGX_STREAM_UPSTREAM_CREATE, ngx_array_create,
    ngx_array_push, ngx_cidr_t, ngx_conf_t, ngx_int_t, ngx_palloc, ngx_parse_size, ngx_pcalloc,
    ngx_ptocidr, ngx_shared_memory_add, ngx_str_t, ngx_stream_compile_complex_value,
    ngx_stream_compile_complex_value_t, ngx_stream_complex_value_t, ngx_stream_upstream_add,
    ngx_stream_upstream_srv_conf_t, ngx_uint_t, ngx_url_t,
};
use ngx::ngx_conf_log_error;

use super::{SrvConf, UNSET, UNSET_LIST};
use crate::nginx::data;
use crate::nginx::module::hidden_upstream;
use crate::nginx::stock::{self, CONF_ERROR, CONF_OK, core_conf};
use crate::nginx::zone::{self, MIN_RESERVATIONS, Zone};

/// An error of a setter: nginx adds file and line.
unsafe fn error(cf: *mut ngx_conf_t, text: impl Display) -> *mut c_char {
    ngx_conf_log_error!(NGX_LOG_EMERG, cf, "{text}");
    CONF_ERROR
}

fn is_duplicate() -> *mut c_char {
    c"is duplicate".as_ptr().cast_mut()
}

/// The directive's arguments.
unsafe fn arguments<'a>(cf: *mut ngx_conf_t) -> &'a [ngx_str_t] {
    // SAFETY: nginx keeps them in the configuration's pool.
    let words: &[ngx_str_t] = unsafe { (*(*cf).args).as_slice() };
    words.get(1..).unwrap_or_default()
}

/// Parameters of `ftp_ctrl` as they were written.
#[derive(Default)]
struct CtrlParameters {
    zone: Option<ngx_str_t>,
    min_port: Option<u16>,
    max_port: Option<u16>,
    proxy_ip: Option<ngx_str_t>,
    server_ip: Option<ngx_str_t>,
}

impl CtrlParameters {
    fn read(words: &[ngx_str_t]) -> Result<Self, String> {
        let mut parameters = Self::default();
        for word in words {
            parameters.read_one(word)?;
        }
        match (parameters.min_port, parameters.max_port) {
            (Some(min), Some(max)) if min > max => {
                Err(format!("invalid port range \"{min}-{max}\""))
            }
            (Some(_), None) => Err("\"ftp_ctrl\" must have \"max_port\" parameter".to_owned()),
            (None, Some(_)) => Err("\"ftp_ctrl\" must have \"min_port\" parameter".to_owned()),
            _ => Ok(parameters),
        }
    }

    fn read_one(&mut self, word: &ngx_str_t) -> Result<(), String> {
        let place = word.as_bytes().iter().position(|&byte| byte == b'=');
        let name = place.and_then(|place| word.as_bytes().get(..place));
        let value = place.map(|place| tail(word, place + 1));
        let repeated = match (name, value) {
            (Some(b"zone"), Some(value)) => self.zone.replace(value).is_some(),
            (Some(b"min_port"), Some(value)) => self.min_port.replace(port(&value)?).is_some(),
            (Some(b"max_port"), Some(value)) => self.max_port.replace(port(&value)?).is_some(),
            (Some(b"proxy_ip"), Some(value)) => self.proxy_ip.replace(value).is_some(),
            (Some(b"server_ip"), Some(value)) => self.server_ip.replace(value).is_some(),
            _ => return Err(format!("invalid parameter \"{word}\"")),
        };
        match repeated {
            true => Err(format!("duplicate parameter \"{word}\"")),
            false => Ok(()),
        }
    }
}

/// What follows the first `start` bytes.
fn tail(word: &ngx_str_t, start: usize) -> ngx_str_t {
    let start = start.min(word.len);
    ngx_str_t {
        len: word.len - start,
        // SAFETY: within the word, or just behind it.
        data: unsafe { word.data.add(start) },
    }
}

fn port(value: &ngx_str_t) -> Result<u16, String> {
    let digits = value.as_bytes();
    str::from_utf8(digits)
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .filter(|&port| port > 0)
        .ok_or_else(|| format!("invalid port \"{value}\""))
}

/// `ftp_ctrl zone=name[:size] min_port=port max_port=port [proxy_ip=address|variable]
/// [server_ip=address|variable];`
///
/// # Safety
///
/// Called by nginx in a `server` block, with our configuration of it.
pub unsafe fn ftp_ctrl(cf: *mut ngx_conf_t, conf: &mut SrvConf) -> *mut c_char {
    if conf.is_control() {
        return is_duplicate();
    }
    // SAFETY: nginx's configuration context.
    unsafe {
        if conf.is_data() {
            return error(cf, "\"ftp_ctrl\" and \"ftp_data\" cannot be in one server");
        }
        let parameters = match CtrlParameters::read(arguments(cf)) {
            Ok(parameters) => parameters,
            Err(text) => return error(cf, text),
        };
        let Some(zone) = parameters.zone.filter(|zone| zone.len > 0) else {
            return error(cf, "\"ftp_ctrl\" must have \"zone\" parameter");
        };
        let (name, size) = match zone_size(&zone) {
            Ok(found) => found,
            Err(text) => return error(cf, text),
        };
        let Some(zone) = declare(cf, name, size).as_mut() else {
            return CONF_ERROR;
        };
        if let (Some(min), Some(max)) = (parameters.min_port, parameters.max_port) {
            let known = (zone.min_port, zone.max_port);
            if zone.min_port != 0 && known != (min, max) {
                let (min, max) = known;
                return error(
                    cf,
                    format_args!(
                        "zone \"{name}\" is already declared with port range \"{min}-{max}\""
                    ),
                );
            }
            (zone.min_port, zone.max_port) = (min, max);
        }
        if let Some(value) = parameters.proxy_ip {
            match compile(cf, value, "proxy_ip", |text| ipv4(text).is_some()) {
                Ok(value) => conf.proxy_ip = value,
                Err(text) => return error(cf, text),
            }
        }
        if let Some(value) = parameters.server_ip {
            match compile(cf, value, "server_ip", |text| ip(text).is_some()) {
                Ok(value) => conf.server_ip = value,
                Err(text) => return error(cf, text),
            }
        }
        conf.ctrl = zone;
        remember_place(cf, conf);
    }
    CONF_OK
}

/// `name` or `name:size`; size 0 where none is given.
fn zone_size(zone: &ngx_str_t) -> Result<(ngx_str_t, usize), String> {
    let Some(place) = zone.as_bytes().iter().position(|&byte| byte == b':') else {
        return Ok((*zone, 0));
    };
    let name = ngx_str_t {
        len: place,
        data: zone.data,
    };
    let mut text = tail(zone, place + 1);
    // SAFETY: the text lives in the configuration's pool.
    let size = unsafe { ngx_parse_size(&mut text) };
    if name.len == 0 || size <= 0 {
        return Err(format!("invalid zone size \"{zone}\""));
    }
    let size = size as usize;
    let fit = zone::capacity(size);
    if fit < MIN_RESERVATIONS {
        return Err(format!(
            "zone \"{name}\" is too small: {fit} reservations fit, at least {MIN_RESERVATIONS} are needed"
        ));
    }
    Ok((name, size))
}

/// The zone of that name in this configuration, declared if it was not; null if nginx says no.
unsafe fn declare(cf: *mut ngx_conf_t, mut name: ngx_str_t, size: usize) -> *mut Zone {
    // SAFETY: nginx's configuration context; zeroes are a value of `Zone`.
    unsafe {
        let Some(shm) = ngx_shared_memory_add(cf, &mut name, size, zone::tag()).as_mut() else {
            return ptr::null_mut();
        };
        if shm.data.is_null() {
            let made = ngx_pcalloc((*cf).pool, mem::size_of::<Zone>()).cast::<Zone>();
            if let Some(zone) = made.as_mut() {
                zone.name = shm.shm.name;
                zone.shm = shm;
                zone.peer = UNSET;
            }
            shm.data = made.cast();
            shm.init = Some(zone::init);
        }
        shm.data.cast()
    }
}

unsafe fn compile(
    cf: *mut ngx_conf_t,
    mut value: ngx_str_t,
    name: &str,
    is_right: fn(&[u8]) -> bool,
) -> Result<*mut ngx_stream_complex_value_t, String> {
    let wrong = format!("invalid \"{name}\" address \"{value}\"");
    // SAFETY: the value is compiled into memory of the configuration's pool.
    unsafe {
        let place = ngx_palloc((*cf).pool, mem::size_of::<ngx_stream_complex_value_t>());
        if place.is_null() {
            return Err("no memory".to_owned());
        }
        let mut compile: ngx_stream_compile_complex_value_t = mem::zeroed();
        compile.cf = cf;
        compile.value = &mut value;
        compile.complex_value = place.cast();
        if ngx_stream_compile_complex_value(&mut compile) != NGX_OK as isize {
            return Err(wrong);
        }
        let compiled = place.cast::<ngx_stream_complex_value_t>();
        let constant = (*compiled).lengths.is_null();
        if constant && !is_right((*compiled).value.as_bytes()) {
            return Err(wrong);
        }
        Ok(compiled)
    }
}

/// An IPv4 address that can be told to a client.
pub fn ipv4(text: &[u8]) -> Option<Ipv4Addr> {
    let address: Ipv4Addr = str::from_utf8(text).ok()?.parse().ok()?;
    (!address.is_unspecified()).then_some(address)
}

/// An address that can be told to a server.
pub fn ip(text: &[u8]) -> Option<IpAddr> {
    let address: IpAddr = str::from_utf8(text).ok()?.parse().ok()?;
    (!address.is_unspecified()).then(|| address.to_canonical())
}

/// `ftp_data zone=name;`
///
/// # Safety
///
/// Called by nginx in a `server` block, with our configuration of it.
pub unsafe fn ftp_data(cf: *mut ngx_conf_t, conf: &mut SrvConf) -> *mut c_char {
    if conf.is_data() {
        return is_duplicate();
    }
    // SAFETY: nginx's configuration context.
    unsafe {
        if conf.is_control() {
            return error(cf, "\"ftp_ctrl\" and \"ftp_data\" cannot be in one server");
        }
        let mut name: Option<ngx_str_t> = None;
        for word in arguments(cf) {
            if !word.as_bytes().starts_with(b"zone=") {
                return error(cf, format_args!("invalid parameter \"{word}\""));
            }
            if name.replace(tail(word, 5)).is_some() {
                return error(cf, format_args!("duplicate parameter \"{word}\""));
            }
        }
        let Some(name) = name.filter(|name| name.len > 0) else {
            return error(cf, "\"ftp_data\" must have \"zone\" parameter");
        };
        if name.as_bytes().contains(&b':') {
            let wrong = format_args!("invalid zone \"{name}\": only \"ftp_ctrl\" has a size");
            return error(cf, wrong);
        }
        let core = core_conf((*cf).ctx.cast());
        if (*core).handler.is_some() {
            return error(cf, MIXED);
        }
        let Some(zone) = declare(cf, name, 0).as_mut() else {
            return CONF_ERROR;
        };
        let answer = proxy_by_reservation(cf);
        if answer != CONF_OK {
            return answer;
        }
        conf.data = zone;
        remember_place(cf, conf);
    }
    CONF_OK
}

pub const MIXED: &str = "\"ftp_data\" cannot be combined with \"proxy_pass\" or \"return\"";

/// `proxy_pass` to the hidden upstream, whose peer is the reservation's target.
unsafe fn proxy_by_reservation(cf: *mut ngx_conf_t) -> *mut c_char {
    // SAFETY: nginx's configuration context.
    unsafe {
        let mut url: ngx_url_t = mem::zeroed();
        url.host = hidden_upstream();
        url.set_no_port(1);
        let upstream = match hidden(cf) {
            Some(known) => known,
            None => ngx_stream_upstream_add(cf, &mut url, NGX_STREAM_UPSTREAM_CREATE as ngx_uint_t),
        };
        let Some(upstream) = upstream.as_mut() else {
            return CONF_ERROR;
        };
        if upstream.peer.init_upstream.is_none() {
            upstream.peer.init_upstream = Some(data::init_upstream);
        }
        stock::proxy_pass(cf, hidden_upstream())
    }
}

/// The hidden upstream, if an earlier `ftp_data` has made it.
unsafe fn hidden(cf: *mut ngx_conf_t) -> Option<*mut ngx_stream_upstream_srv_conf_t> {
    // SAFETY: the upstream module's list is complete up to here; a user's own upstream of the name has no
    // `init_upstream` of ours, and then adding ours fails as "duplicate upstream".
    unsafe {
        let list = stock::upstreams((*cf).ctx.cast());
        list.iter().copied().find(|&upstream| {
            let init = (*upstream).peer.init_upstream;
            (*upstream).host.as_bytes() == hidden_upstream().as_bytes()
                && init.is_some_and(|init| ptr::fn_addr_eq(init, OUR_INIT))
        })
    }
}

const OUR_INIT: unsafe extern "C" fn(
    *mut ngx_conf_t,
    *mut ngx_stream_upstream_srv_conf_t,
) -> ngx_int_t = data::init_upstream;

/// `ftp_data_peer same|any;`
///
/// # Safety
///
/// Called by nginx, with our configuration of the block.
pub unsafe fn ftp_data_peer(cf: *mut ngx_conf_t, conf: &mut SrvConf) -> *mut c_char {
    // SAFETY: the caller's promise.
    unsafe { choose(cf, &mut conf.data_peer, "ftp_data_peer", &["same", "any"]) }
}

/// `ftp_client_mode passive|active|any;`
///
/// # Safety
///
/// Called by nginx, with our configuration of the block.
pub unsafe fn ftp_client_mode(cf: *mut ngx_conf_t, conf: &mut SrvConf) -> *mut c_char {
    // SAFETY: the caller's promise.
    unsafe {
        choose(
            cf,
            &mut conf.client_mode,
            "ftp_client_mode",
            &["passive", "active", "any"],
        )
    }
}

/// `ftp_server_mode client|passive|active;`
///
/// # Safety
///
/// Called by nginx, with our configuration of the block.
pub unsafe fn ftp_server_mode(cf: *mut ngx_conf_t, conf: &mut SrvConf) -> *mut c_char {
    // SAFETY: the caller's promise.
    unsafe {
        choose(
            cf,
            &mut conf.server_mode,
            "ftp_server_mode",
            &["client", "passive", "active"],
        )
    }
}

/// `ftp_auth_tls off|on|only;`
///
/// # Safety
///
/// Called by nginx, with our configuration of the block.
pub unsafe fn ftp_auth_tls(cf: *mut ngx_conf_t, conf: &mut SrvConf) -> *mut c_char {
    // SAFETY: the caller's promise.
    unsafe {
        choose(
            cf,
            &mut conf.auth_tls,
            "ftp_auth_tls",
            &["off", "on", "only"],
        )
    }
}

/// `ftp_data_tls optional|required;`
///
/// # Safety
///
/// Called by nginx, with our configuration of the block.
pub unsafe fn ftp_data_tls(cf: *mut ngx_conf_t, conf: &mut SrvConf) -> *mut c_char {
    // SAFETY: the caller's promise.
    unsafe { choose(cf, &mut conf.data_tls, "ftp_data_tls", &DEMANDS) }
}

/// `ftp_data_tls_reuse optional|required;`
///
/// # Safety
///
/// Called by nginx, with our configuration of the block.
pub unsafe fn ftp_data_tls_reuse(cf: *mut ngx_conf_t, conf: &mut SrvConf) -> *mut c_char {
    let value = &mut conf.tls_reuse;
    // SAFETY: the caller's promise.
    unsafe { choose(cf, value, "ftp_data_tls_reuse", &DEMANDS) }
}

/// `ftp_data_tls_close_notify optional|required;`
///
/// # Safety
///
/// Called by nginx, with our configuration of the block.
pub unsafe fn ftp_data_tls_close_notify(cf: *mut ngx_conf_t, conf: &mut SrvConf) -> *mut c_char {
    let value = &mut conf.tls_close_notify;
    // SAFETY: the caller's promise.
    unsafe { choose(cf, value, "ftp_data_tls_close_notify", &DEMANDS) }
}

const DEMANDS: [&str; 2] = ["optional", "required"];

/// One word of several; its place among them is the value.
unsafe fn choose(
    cf: *mut ngx_conf_t,
    value: &mut ngx_uint_t,
    directive: &str,
    words: &[&str],
) -> *mut c_char {
    if *value != UNSET {
        return is_duplicate();
    }
    // SAFETY: nginx's configuration context.
    unsafe {
        let word = arguments(cf)
            .first()
            .map_or(&b""[..], |word| word.as_bytes());
        let Some(place) = words.iter().position(|known| known.as_bytes() == word) else {
            let word = String::from_utf8_lossy(word);
            return error(cf, format_args!("invalid \"{directive}\" value \"{word}\""));
        };
        *value = place;
    }
    CONF_OK
}

/// `ftp_pasv_trust address|CIDR ... | off;`
///
/// # Safety
///
/// Called by nginx, with our configuration of the block.
pub unsafe fn ftp_pasv_trust(cf: *mut ngx_conf_t, conf: &mut SrvConf) -> *mut c_char {
    if conf.pasv_trust != UNSET_LIST {
        return is_duplicate();
    }
    // SAFETY: nginx's configuration context; the array's elements are `ngx_cidr_t`.
    unsafe {
        let words = arguments(cf);
        if let [word] = words
            && word.as_bytes() == b"off"
        {
            conf.pasv_trust = ptr::null_mut();
            return CONF_OK;
        }
        let Some(list) =
            ngx_array_create((*cf).pool, words.len(), mem::size_of::<ngx_cidr_t>()).as_mut()
        else {
            return CONF_ERROR;
        };
        for word in words {
            let Some(cidr) = ngx_array_push(list).cast::<ngx_cidr_t>().as_mut() else {
                return CONF_ERROR;
            };
            let mut text = *word;
            let read = ngx_ptocidr(&mut text, cidr);
            if read == NGX_ERROR as isize {
                return error(
                    cf,
                    format_args!("invalid \"ftp_pasv_trust\" value \"{word}\""),
                );
            }
            if read != NGX_OK as isize {
                ngx_conf_log_error!(
                    NGX_LOG_WARN,
                    cf,
                    "low address bits of \"{word}\" are meaningless"
                );
            }
        }
        conf.pasv_trust = list;
    }
    CONF_OK
}

unsafe fn remember_place(cf: *mut ngx_conf_t, conf: &mut SrvConf) {
    // SAFETY: the file is open while its directives are read; its name outlives it.
    unsafe {
        conf.file = (*(*cf).conf_file).file.name;
        conf.line = (*(*cf).conf_file).line;
    }
}
