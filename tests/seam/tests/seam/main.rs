//! CONNECT-IP over iroh: see [`tunnels`].

mod driver;
mod gateway;
mod tunnels;
