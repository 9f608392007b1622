//! The glue between the pure rooms and nginx, and the only room with `unsafe` in it.
//!
//! A file per nginx concept:
//!
//! | file | what |
//! | --- | --- |
//! | `module` | what nginx sees of us: the module, its directives, its hooks |
//! | `conf` | server configuration, merging; in `conf::directives` the setters |
//! | `check` | what only the whole configuration can tell |
//! | `zone` | the shared memory zone: table of reservations, its lock, owners |
//! | `control` | a control connection: the filter, which feeds the session machine |
//! | `outside` | what the session machine acts on |
//! | `reserve` | a data port for what the server announced |
//! | `input` | bytes that the machine has not taken yet |
//! | `output` | buffer chains that the filter sends |
//! | `data` | a data connection: its phases; in `data::peer` what the stock proxy asks, in `data::ending` how it ends |
//! | `hold` | what a server says of a transfer before its data connection is there |
//! | `early` | the end of an upload before its command |
//! | `hello` | TLS toward the server of a data connection before its command |
//! | `active` | a data connection that the server has begun: the client is dialled, the two exchanged |
//! | `dialled` | a data connection that the proxy begins: the client is dialled, and made a session |
//! | `meet` | two data connections that make one: across workers |
//! | `tls` | handshakes with the client that we begin |
//! | `resume` | TLS sessions with the server, from control to data connections |
//! | `linger` | the end of a TLS leg to the server |
//! | `auth` | explicit TLS toward the server, between the proxy's connect and its handshake |
//! | `variables` | what an access log may show |
//! | `stock` | what we borrow of the stock proxy |
//! | `context` | what hangs on an nginx session |
//! | `timer` | events of our own |
//! | `address` | `sockaddr` in and out |
//! | `listener` | what accepted sockets inherit |
//! | `socket` | questions to sockets: peers, the original destination |
//! | `log` | lines in the log, out of the way |
//! | `guard` | no panic leaves an entry point |

mod active;
mod address;
mod auth;
mod check;
mod conf;
mod context;
mod control;
mod data;
mod dialled;
mod early;
mod guard;
mod hello;
mod hold;
mod input;
mod linger;
mod listener;
mod log;
mod meet;
mod module;
mod output;
mod outside;
mod reserve;
mod resume;
mod socket;
mod stock;
mod timer;
mod tls;
mod variables;
mod zone;
