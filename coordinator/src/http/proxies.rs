//! Where a call comes from when a proxy stands before the coordinator.
//!
//! Each proxy appends to `X-Forwarded-For` the address by which it was called, and anybody may send such a header. So it is
//! read from its end, as far as those are to be trusted who wrote it.

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;
use ipnet::IpNet;

const HEADER: &str = "x-forwarded-for";
/// Proxies one before the other; what a longer header says is not looked at.
const MAX_HOPS: usize = 32;

/// The proxies that say truly by whom they were called.
#[derive(Clone, Debug, Default)]
pub struct Proxies(Vec<IpNet>);

impl Proxies {
    /// Reads addresses and networks (CIDR) between commas.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let network = |part: &str| {
            let network = part.parse::<IpNet>().or_else(|_| part.parse::<IpAddr>().map(IpNet::from));
            network.map_err(|_| format!("{part:?} is neither an address nor a network such as 10.0.0.0/8"))
        };
        parts.map(network).collect::<Result<_, _>>().map(Self)
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Who calls, if `peer` is at the other end of the connection: the last address of the header that is no proxy's. What
    /// stands before something that is no address was written by nobody knows whom.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        let values = headers.get_all(HEADER).iter().rev();
        let mut hops = values.flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b',')).take(MAX_HOPS);
        while self.trusts(client) {
            let Some(address) = hops.next().and_then(address) else { break };
            client = address;
        }
        client
    }
}

/// An address as proxies write it: alone, in brackets, or with a port.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const TRUSTED: &str = "10.0.0.0/8, 192.0.2.1 ,2001:db8::/32";

    fn client(peer: &str, values: &[&[u8]]) -> String {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(HEADER, HeaderValue::from_bytes(value).expect("it may stand in a header"));
        }
        let proxies = Proxies::parse(TRUSTED).expect("these are addresses and networks");
        proxies.client(peer.parse().expect("an address"), &headers).to_string()
    }

    #[test]
    fn the_last_address_that_is_no_proxys_counts() {
        assert_eq!(client("10.1.2.3", &[b"203.0.113.7"]), "203.0.113.7");
        assert_eq!(client("192.0.2.1", &[b"203.0.113.7, 10.9.9.9"]), "203.0.113.7");
        assert_eq!(client("10.1.2.3", &[b"203.0.113.7", b"10.9.9.9"]), "203.0.113.7", "several headers are one list");
        assert_eq!(client("::ffff:10.1.2.3", &[b"::ffff:203.0.113.7"]), "203.0.113.7", "one address, one form");
        for written in ["2a00:1::5", "[2a00:1::5]", "[2a00:1::5]:443"] {
            assert_eq!(client("2001:db8::1", &[written.as_bytes()]), "2a00:1::5");
        }
        assert_eq!(client("10.1.2.3", &[b"203.0.113.7:5678"]), "203.0.113.7");
    }

    /// Whatever a client writes itself stands before what the proxy has appended.
    #[test]
    fn what_a_client_says_of_itself_does_not_count() {
        assert_eq!(client("203.0.113.7", &[b"198.51.100.1"]), "203.0.113.7", "nobody trusts it");
        assert_eq!(client("203.0.113.7", &[b"10.1.1.1"]), "203.0.113.7");
        assert_eq!(client("10.1.2.3", &[b"198.51.100.1, 203.0.113.7"]), "203.0.113.7");
        assert_eq!(client("10.1.2.3", &[b"198.51.100.1, 10.4.4.4, 203.0.113.7, 10.5.5.5"]), "203.0.113.7");
    }

    #[test]
    fn without_a_word_that_can_be_believed_it_is_the_proxy_itself() {
        assert_eq!(client("10.1.2.3", &[]), "10.1.2.3");
        for garbage in [&b""[..], b",", b"unknown", b"203.0.113.7, ", b"203.0.113.7;", b"203.0.113.256", b"\xff\xfe"] {
            assert_eq!(client("10.1.2.3", &[garbage]), "10.1.2.3", "{garbage:?}");
        }
        assert_eq!(client("10.1.2.3", &[b"203.0.113.7, x, 10.9.9.9"]), "10.9.9.9");
        assert_eq!(client("10.1.2.3", &[b"10.7.7.7"]), "10.7.7.7", "a proxy may be a client as well");
    }

    #[test]
    fn a_very_long_list_is_read_from_its_end_alone() {
        let long = ["198.51.100.1"; 4_000].join(", ");
        assert_eq!(client("10.1.2.3", &[format!("{long}, 203.0.113.7").as_bytes()]), "203.0.113.7");
        let proxies = ["10.3.3.3"; 4_000].join(",");
        assert_eq!(client("10.1.2.3", &[format!("203.0.113.7,{proxies}").as_bytes()]), "10.3.3.3");
        assert_eq!(client("10.1.2.3", &["1".repeat(60_000).as_bytes()]), "10.1.2.3");
    }

    #[test]
    fn nobody_is_trusted_unless_named() {
        let none = Proxies::parse("").expect("nothing is fine");
        let mut headers = HeaderMap::new();
        headers.append(HEADER, HeaderValue::from_static("203.0.113.7"));
        assert_eq!(none.client(IpAddr::from([127, 0, 0, 1]), &headers), IpAddr::from([127, 0, 0, 1]));
        for bad in ["localhost", "10.0.0.0/33", "10.0.0.0-10.0.0.9", "10.0.0.1 10.0.0.2"] {
            assert!(Proxies::parse(bad).is_err(), "{bad}");
        }
    }
}
