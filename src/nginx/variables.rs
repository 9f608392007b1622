//! Variables for `access_log` on both servers, and for `proxy_pass` of transparent ones. None ever holds a
//! password.

use std::ffi::CStr;
use std::net::SocketAddr;
use std::ptr;

use nginx_sys::{
    NGX_ERROR, NGX_OK, NGX_STREAM_VAR_NOCACHEABLE, ngx_conf_t, ngx_int_t, ngx_pnalloc,
    ngx_stream_add_variable, ngx_stream_session_t, ngx_stream_variable_value_t,
};

use super::context::{self, Context};
use super::control::Control;
use super::data::{Data, Ending};
use super::guard::guarded;
use super::socket;
use super::stock::text;
use crate::ports;

/// The value of a variable: `None` where there is none.
type Value = Option<Vec<u8>>;

struct Variable {
    name: &'static CStr,
    value: Getter,
}

enum Getter {
    /// Of our state of the session, by its kind.
    Session {
        control: fn(&Control) -> Value,
        data: fn(&Data) -> Value,
    },
    /// Of the original destination, in any server.
    Destination(fn(SocketAddr) -> String),
}

static VARIABLES: [Variable; 10] = [
    Variable {
        name: c"ftp_session",
        value: Getter::Session {
            control: |control| Some(session_id(control.id())),
            data: |data| Some(session_id(data.reservation()?.session)),
        },
    },
    Variable {
        name: c"ftp_data_port",
        value: Getter::Session {
            control: |control| Some(control.data_port()?.to_string().into()),
            data: |data| Some(data.port().to_string().into()),
        },
    },
    Variable {
        name: c"ftp_mode",
        value: Getter::Session {
            control: |control| Some(control.mode()?.verb().into()),
            data: |data| {
                Some(match data.reservation()?.mode {
                    ports::Mode::Pasv => b"PASV".to_vec(),
                    ports::Mode::Epsv => b"EPSV".to_vec(),
                    ports::Mode::Port => b"PORT".to_vec(),
                    ports::Mode::Eprt => b"EPRT".to_vec(),
                })
            },
        },
    },
    Variable {
        name: c"ftp_user",
        value: Getter::Session {
            control: |control| Some(control.machine().user().to_vec()),
            data: |data| Some(data.reservation()?.user.as_bytes().to_vec()),
        },
    },
    Variable {
        name: c"ftp_command",
        value: Getter::Session {
            control: |control| Some(control.machine().transfer()?.verb.into()),
            data: |data| Some(data.reservation()?.verb.as_bytes().to_vec()),
        },
    },
    Variable {
        name: c"ftp_path",
        value: Getter::Session {
            control: |control| Some(control.machine().transfer()?.path.to_vec()),
            data: |data| Some(data.reservation()?.path.as_bytes().to_vec()),
        },
    },
    Variable {
        name: c"ftp_data_status",
        value: Getter::Session {
            control: |_| None,
            data: |data| {
                Some(match data.ending() {
                    Ending::Complete => b"complete".to_vec(),
                    Ending::Cut { .. } => b"cut".to_vec(),
                    Ending::Refused => b"refused".to_vec(),
                    Ending::HandedOver => b"handed over".to_vec(),
                })
            },
        },
    },
    Variable {
        name: c"ftp_original_dst",
        value: Getter::Destination(|dialled| dialled.to_string()),
    },
    Variable {
        name: c"ftp_original_dst_addr",
        value: Getter::Destination(|dialled| dialled.ip().to_string()),
    },
    Variable {
        name: c"ftp_original_dst_port",
        value: Getter::Destination(|dialled| dialled.port().to_string()),
    },
];

fn session_id(id: u64) -> Vec<u8> {
    format!("{id:016x}").into()
}

/// Declares all of them. `None` if nginx says no.
///
/// # Safety
///
/// Called before the `stream` block is read.
pub unsafe fn declare(cf: *mut ngx_conf_t) -> Option<()> {
    for (index, variable) in VARIABLES.iter().enumerate() {
        let mut name = text(variable.name);
        // SAFETY: nginx copies the name.
        unsafe {
            let declared =
                ngx_stream_add_variable(cf, &mut name, NGX_STREAM_VAR_NOCACHEABLE as usize)
                    .as_mut()?;
            declared.get_handler = Some(get);
            declared.data = index;
        }
    }
    Some(())
}

unsafe extern "C" fn get(
    s: *mut ngx_stream_session_t,
    value: *mut ngx_stream_variable_value_t,
    index: usize,
) -> ngx_int_t {
    // SAFETY: nginx's session and a place for the value.
    unsafe {
        let log = (*(*s).connection).log;
        guarded(log, NGX_ERROR as ngx_int_t, || {
            let variable = VARIABLES.get(index);
            let found = match variable.map(|variable| &variable.value) {
                Some(Getter::Session { control, data }) => match context::of(s) {
                    Some(Context::Control(state)) => control(state),
                    Some(Context::Data(state)) => data(state),
                    None => None,
                },
                Some(Getter::Destination(write)) => {
                    let dialled = match context::of(s) {
                        Some(Context::Control(state)) if state.destination().is_some() => {
                            state.destination()
                        }
                        _ => socket::original_destination((*s).connection),
                    };
                    dialled.map(|dialled| write(dialled).into())
                }
                None => None,
            };
            let value = &mut *value;
            let Some(bytes) = found.filter(|bytes| !bytes.is_empty()) else {
                value.set_not_found(1);
                return NGX_OK as ngx_int_t;
            };
            let copy = ngx_pnalloc((*(*s).connection).pool, bytes.len()).cast::<u8>();
            if copy.is_null() {
                return NGX_ERROR as ngx_int_t;
            }
            ptr::copy_nonoverlapping(bytes.as_ptr(), copy, bytes.len());
            value.data = copy;
            value.set_len(bytes.len() as u32);
            value.set_valid(1);
            value.set_no_cacheable(0);
            value.set_not_found(0);
            NGX_OK as ngx_int_t
        })
    }
}
