//! A small blocking client of Redis's protocol (RESP2): a command, an answer.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

/// How long connecting, and each read or write, may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// An answer that is no error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A text; what is no UTF-8 in it is replaced.
    Text(String),
    /// A number.
    Number(i64),
    /// A list.
    List(Vec<Reply>),
    /// Nothing: no such key.
    Nil,
}

impl Reply {
    /// The text, if it is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number, if it is one.
    pub const fn number(&self) -> Option<i64> {
        match self {
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }
}

/// One connection, logged in.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Connects and logs in.
    ///
    /// # Errors
    /// When nobody listens or the password is wrong.
    pub fn open(address: SocketAddr, password: &str) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, TIMEOUT)
            .with_context(|| format!("connect to Redis at {address}"))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        stream.set_nodelay(true)?;
        let mut connection = Self { stream: BufReader::new(stream) };
        connection.ask(&["AUTH", password])?;
        Ok(connection)
    }

    /// Sends a command and reads its answer.
    ///
    /// # Errors
    /// When the server answers with an error (the message is the server's, `MOVED …` for one), is
    /// gone, or is silent for five seconds.
    pub fn ask(&mut self, words: &[&str]) -> Result<Reply> {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request += &format!("${}\r\n{word}\r\n", word.len());
        }
        self.stream.get_mut().write_all(request.as_bytes()).context("ask Redis")?;
        self.read()
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line).context("read Redis's answer")?;
        let line = line.strip_suffix("\r\n").ok_or_else(|| anyhow!("Redis hung up"))?;
        Ok(line.to_owned())
    }

    fn read(&mut self) -> Result<Reply> {
        let line = self.line()?;
        let (kind, rest) = line.split_at_checked(1).unwrap_or_default();
        // A negative length is the answer "nothing".
        let length = || rest.parse::<i64>().map(|n| usize::try_from(n).ok());
        match kind {
            "+" => Ok(Reply::Text(rest.to_owned())),
            "-" => bail!("{rest}"),
            ":" => Ok(Reply::Number(rest.parse()?)),
            "$" => {
                let Some(length) = length()? else { return Ok(Reply::Nil) };
                let mut bytes = vec![0; length + 2];
                self.stream.read_exact(&mut bytes).context("read Redis's answer")?;
                bytes.truncate(length);
                Ok(Reply::Text(String::from_utf8_lossy(&bytes).into_owned()))
            }
            "*" => {
                let Some(length) = length()? else { return Ok(Reply::Nil) };
                (0..length).map(|_| self.read()).collect::<Result<_>>().map(Reply::List)
            }
            _ => bail!("Redis speaks in tongues: {line:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// What a server that answers these bytes to the login and one command is understood to say.
    fn heard(answer: &'static str) -> Result<Reply> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let asked = "*2\r\n$4\r\nAUTH\r\n$1\r\np\r\n*1\r\n$1\r\nx\r\n";
            stream.write_all(b"+OK\r\n").unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            let mut bytes = vec![0; asked.len()];
            stream.read_exact(&mut bytes).unwrap();
            assert_eq!(String::from_utf8(bytes).unwrap(), asked);
        });
        let reply = Connection::open(address, "p").unwrap().ask(&["x"]);
        server.join().unwrap();
        reply
    }

    #[test]
    fn every_kind_of_answer_is_read() {
        assert_eq!(heard("+PONG\r\n").unwrap(), Reply::Text("PONG".to_owned()));
        assert_eq!(heard(":-3\r\n").unwrap(), Reply::Number(-3));
        assert_eq!(heard("$-1\r\n").unwrap(), Reply::Nil);
        assert_eq!(heard("$4\r\na\r\nb\r\n").unwrap().text(), Some("a\r\nb"));
        let list = Reply::List(vec![Reply::Number(1), Reply::Nil, Reply::List(Vec::new())]);
        assert_eq!(heard("*3\r\n:1\r\n*-1\r\n*0\r\n").unwrap(), list);
        assert_eq!(heard("-ERR no\r\n").unwrap_err().to_string(), "ERR no");
        assert!(heard("$9\r\nshort").is_err());
        assert!(heard("").is_err());
    }
}
