//! The PROXY protocol, version 2 (haproxy.org, `doc/proxy-protocol.txt`): a load balancer says in
//! binary, before anything else, whose connection it passes on.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::io::{AsyncRead, AsyncReadExt};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Addresses and TLVs together; the specification allows 65,535, load balancers send below 500.
const MAX_LEN: usize = 2_048;

/// Reads the header off a new connection. `None` means that the balancer speaks for itself
/// (`LOCAL`: a health check) or for a family that has no address.
///
/// # Errors
/// `InvalidData` for anything that is no version 2 header; I/O errors as they come. Reading exactly
/// the header and no byte more leaves the stream at the first byte of the visitor.
pub async fn read_header(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<IpAddr>> {
    let mut head = [0; 16];
    io.read_exact(&mut head).await?;
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    if head[..12] != SIGNATURE {
        return Err(wrong("no PROXY protocol v2 signature"));
    }
    let (version, command) = (head[12] >> 4, head[12] & 0x0f);
    if version != 2 || command > 1 {
        return Err(wrong("unknown PROXY protocol version or command"));
    }
    let family = head[13] >> 4;
    let len = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if len > MAX_LEN {
        return Err(wrong("PROXY protocol header too long"));
    }
    let mut rest = vec![0; len];
    io.read_exact(&mut rest).await?;
    if command == 0 {
        return Ok(None);
    }
    match family {
        1 => {
            let source: [u8; 4] = rest
                .get(..12)
                .and_then(|addresses| addresses[..4].try_into().ok())
                .ok_or_else(|| wrong("PROXY protocol IPv4 addresses cut short"))?;
            Ok(Some(IpAddr::V4(Ipv4Addr::from(source))))
        }
        2 => {
            let source: [u8; 16] = rest
                .get(..36)
                .and_then(|addresses| addresses[..16].try_into().ok())
                .ok_or_else(|| wrong("PROXY protocol IPv6 addresses cut short"))?;
            Ok(Some(IpAddr::V6(Ipv6Addr::from(source)).to_canonical()))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([0x20 | command, family << 4 | 1]);
        bytes.extend((rest.len() as u16).to_be_bytes());
        bytes.extend(rest);
        bytes
    }

    async fn read(mut bytes: &[u8]) -> (io::Result<Option<IpAddr>>, usize) {
        let result = read_header(&mut bytes).await;
        (result, bytes.len())
    }

    #[tokio::test]
    async fn addresses_are_read_and_nothing_more() {
        let v4 = [192, 0, 2, 7, 127, 0, 0, 1, 0x12, 0x34, 0, 80];
        let mut bytes = header(1, 1, &[&v4[..], &[4, 0, 1, 9]].concat());
        bytes.extend(b"GET /");
        let (address, left) = read(&bytes).await;
        assert_eq!(address.unwrap(), Some("192.0.2.7".parse().unwrap()));
        assert_eq!(left, 5);
        let mut v6 = [0; 36];
        v6[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
        assert_eq!(read(&header(1, 2, &v6)).await.0.unwrap(), Some("2001:db8::".parse().unwrap()));
    }

    #[tokio::test]
    async fn health_checks_speak_for_themselves() {
        assert_eq!(read(&header(0, 0, &[])).await.0.unwrap(), None);
        assert_eq!(read(&header(1, 3, &[0; 216])).await.0.unwrap(), None);
    }

    #[tokio::test]
    async fn anything_else_is_refused() {
        let mut wrong_version = header(1, 1, &[0; 12]);
        wrong_version[12] = 0x11;
        let long = header(1, 1, &vec![0; 4_096]);
        for bytes in [
            &b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n"[..],
            b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
            &wrong_version,
            &header(1, 1, &[0; 11]),
            &header(1, 2, &[0; 12]),
            &header(2, 1, &[0; 12]),
            &long,
            &SIGNATURE,
        ] {
            assert!(read(bytes).await.0.is_err(), "{bytes:?}");
        }
    }
}
