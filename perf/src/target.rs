//! Where the load goes: the one server address of a run, which has to be on this machine.
//!
//! A load generator that can be aimed at any host is a weapon, so that the check is made while the address is read
//! and there is no switch that turns it off. Names are not looked up, because a name server could answer anything.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use anyhow::{Context as _, bail, ensure};

const DEFAULT_PORT: u16 = 80;

/// A loopback address and the `Host` field that goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// What to connect to.
    pub(crate) address: SocketAddr,
    /// The host and port as they were given, for the `Host` field.
    pub(crate) authority: String,
}

impl FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        let Some(after_scheme) = url.strip_prefix("http://") else {
            bail!("only plain `http://` URLs are understood");
        };
        let authority = after_scheme.strip_suffix('/').unwrap_or(after_scheme);
        ensure!(
            !authority.contains(['/', '?', '#', '@']),
            "the URL names a server only, as in `http://127.0.0.1:8080`: it has no path, query or user"
        );
        let (host, port) = split_port(authority)?;
        let address = SocketAddr::new(loopback_address(host)?, port);
        Ok(Self { address, authority: authority.to_owned() })
    }
}

fn split_port(authority: &str) -> anyhow::Result<(&str, u16)> {
    // The colons inside the brackets of an IPv6 address are not the one before the port.
    let port_colon = match authority.rfind(']') {
        Some(bracket) => authority[bracket..].find(':').map(|colon| bracket + colon),
        None => authority.rfind(':'),
    };
    let Some(port_colon) = port_colon else {
        return Ok((authority, DEFAULT_PORT));
    };
    let port = authority[port_colon + 1..].parse().context("the port is not a number from 0 to 65535")?;
    Ok((&authority[..port_colon], port))
}

fn loopback_address(host: &str) -> anyhow::Result<IpAddr> {
    let address = if host.eq_ignore_ascii_case("localhost") {
        Some(IpAddr::V4(Ipv4Addr::LOCALHOST))
    } else if let Some(inside) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        inside.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
    } else {
        host.parse::<Ipv4Addr>().ok().map(IpAddr::V4)
    };
    match address {
        Some(address) if address.is_loopback() => Ok(address),
        _ => bail!(
            "`{host}` is not a loopback address: this tool loads only servers on its own machine \
             (127.0.0.0/8, [::1] or localhost)"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_addresses_are_taken() {
        for (url, address) in [
            ("http://127.0.0.1:8080", "127.0.0.1:8080"),
            ("http://127.9.8.7:1/", "127.9.8.7:1"),
            ("http://127.0.0.1", "127.0.0.1:80"),
            ("http://localhost:9000", "127.0.0.1:9000"),
            ("http://[::1]:8080", "[::1]:8080"),
            ("http://[::1]", "[::1]:80"),
        ] {
            assert_eq!(url.parse::<Target>().unwrap().address, address.parse().unwrap(), "{url}");
        }
    }

    #[test]
    fn every_other_host_is_refused_with_a_sentence() {
        for url in [
            "http://10.0.0.1:80",
            "http://0.0.0.0:80",
            "http://128.0.0.1",
            "http://example.com",
            "http://localhost.example.com",
            "http://127.0.0.1.example.com",
            "http://[::]:80",
            "http://[::ffff:127.0.0.1]:80",
            "http://[fe80::1]:80",
            "http://2130706433",
            "http://",
        ] {
            let refusal = url.parse::<Target>().unwrap_err().to_string();
            assert!(refusal.contains("is not a loopback address"), "{url}: {refusal}");
        }
    }

    #[test]
    fn urls_with_more_than_a_server_are_refused() {
        for url in [
            "https://127.0.0.1",
            "127.0.0.1:80",
            "http://127.0.0.1/path",
            "http://me@127.0.0.1",
            "http://127.0.0.1?a",
            "http://127.0.0.1:65536",
            "http://127.0.0.1:",
        ] {
            assert!(url.parse::<Target>().is_err(), "{url}");
        }
    }
}
