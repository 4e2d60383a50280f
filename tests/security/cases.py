"""Malformed, ambiguous and lying requests. What each sends is bytes, with HOST (or CAPITALS) and WORD to be filled in.

WORD marks what the request brings along, so that it can be found wherever it arrives. What would be another request, if
the server were mistaken about where this one ends, asks for /smuggled.
"""

from __future__ import annotations

SMUGGLED = b"GET /smuggled/WORD HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n"


def get(
    path: bytes = b"/WORD", *lines: bytes, method: bytes = b"GET", version: bytes = b"HTTP/1.1", host: bytes = b"HOST"
) -> bytes:
    """Write a request without a body; the connection is closed after it."""
    return b"\r\n".join(
        [method + b" " + path + b" " + version, b"Host: " + host, *lines, b"Connection: close", b"", b""]
    )


def post(*lines: bytes, body: bytes) -> bytes:
    """Write a request with a body, on a connection that stays."""
    return b"\r\n".join([b"POST /WORD HTTP/1.1", b"Host: HOST", *lines, b"", body])


CHUNKED = b"Transfer-Encoding: chunked"

# Where one request ends, and the next begins.
LENGTHS: dict[str, bytes] = {
    "two lengths that differ": post(b"Content-Length: 5", b"Content-Length: 200", body=b"hello" + SMUGGLED),
    "two lengths that differ, the longer first": post(
        b"Content-Length: 200", b"Content-Length: 5", body=b"hello" + SMUGGLED
    ),
    "the same length twice": post(b"Content-Length: 0", b"Content-Length: 0", body=SMUGGLED),
    "lengths in a list": post(b"Content-Length: 0, 0", body=SMUGGLED),
    "lengths that differ in a list": post(b"Content-Length: 0, 200", body=SMUGGLED),
    "length with a plus": post(b"Content-Length: +0", body=SMUGGLED),
    "length below zero": post(b"Content-Length: -1", body=SMUGGLED),
    "length in hexadecimal": post(b"Content-Length: 0x0", body=SMUGGLED),
    "length with a blank in it": post(b"Content-Length: 0 0", body=SMUGGLED),
    "length followed by letters": post(b"Content-Length: 0abc", body=SMUGGLED),
    "length of nothing": post(b"Content-Length:", body=SMUGGLED),
    "length that overflows": post(b"Content-Length: 18446744073709551616", body=SMUGGLED),
    "length with a blank before its colon": post(b"Content-Length : 200", body=SMUGGLED),
    "length with a vertical tab": post(b"Content-Length:\x0b200", body=SMUGGLED),
    "length behind a bare CR": post(b"X-A: b\rContent-Length: 200", body=SMUGGLED),
    "length and chunks": post(b"Content-Length: 5", CHUNKED, body=b"0\r\n\r\n" + SMUGGLED),
    "chunks and length": post(CHUNKED, b"Content-Length: 5", body=b"0\r\n\r\n" + SMUGGLED),
    "chunks twice": post(CHUNKED, CHUNKED, body=b"0\r\n\r\n" + SMUGGLED),
    "chunks and something else": post(
        CHUNKED, b"Transfer-Encoding: x", b"Content-Length: 0", body=b"0\r\n\r\n" + SMUGGLED
    ),
    "chunks that are not": post(b"Transfer-Encoding: xchunked", b"Content-Length: 0", body=SMUGGLED),
    "chunks in a list": post(b"Transfer-Encoding: chunked, identity", b"Content-Length: 0", body=SMUGGLED),
    "chunks, with a blank before the colon": post(b"Transfer-Encoding : chunked", b"Content-Length: 0", body=SMUGGLED),
    "chunks, with a vertical tab": post(b"Transfer-Encoding:\x0bchunked", b"Content-Length: 0", body=SMUGGLED),
    "chunks, in quotes": post(b'Transfer-Encoding: "chunked"', b"Content-Length: 0", body=SMUGGLED),
    "chunks, folded": post(b"Transfer-Encoding:\r\n chunked", b"Content-Length: 0", body=SMUGGLED),
    "chunks in HTTP/1.0": b"POST /WORD HTTP/1.0\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    + SMUGGLED,
    "chunk of a size below zero": post(CHUNKED, body=b"-1\r\n\r\n" + SMUGGLED),
    "chunk of a size that overflows": post(CHUNKED, body=b"FFFFFFFFFFFFFFFF1\r\n\r\n" + SMUGGLED),
    "chunk of a size with a prefix": post(CHUNKED, body=b"0x0\r\n\r\n" + SMUGGLED),
    "chunk that is longer than it says": post(CHUNKED, body=b"1\r\nabc\r\n0\r\n\r\n" + SMUGGLED),
    "chunk with no line end": post(CHUNKED, body=b"1\r\na0\r\n\r\n" + SMUGGLED),
    "length folded": post(b"X-A: b\r\n Content-Length: 200", b"Content-Length: 0", b"Connection: close", body=SMUGGLED),
    "body of a GET": get(b"/WORD", b"Content-Length: 200"),
    "upgrade to HTTP/2 without TLS": get(b"/WORD", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA")
    + SMUGGLED,
    "upgrade to a web socket": get(b"/WORD", b"Upgrade: websocket", b"Sec-WebSocket-Version: 777") + SMUGGLED,
    "header that Connection takes away": post(
        b"Connection: close, Content-Length", b"Content-Length: 5", body=b"hello"
    ),
    "expectation that nobody fulfils": post(
        b"Content-Length: 5", b"Expect: 200-ok", b"Connection: close", body=b"hello"
    ),
}

# What is asked for, and of whom.
TARGETS: dict[str, bytes] = {
    "absolute URI": get(b"https://HOST/WORD"),
    "absolute URI of another scheme": get(b"gopher://HOST/WORD"),
    "absolute URI of another host": get(b"https://evil.example/WORD"),
    "absolute URI of ours, and another Host": get(b"https://HOST/WORD", host=b"evil.example"),
    "absolute URI with a name to log in": get(b"https://evil.example@HOST/WORD"),
    "absolute URI without a host": get(b"https:///WORD"),
    "URI that begins with two slashes": get(b"//evil.example/WORD"),
    "path that doesn't begin with a slash": get(b"WORD"),
    "asterisk": get(b"*", b"X-Word: WORD", method=b"OPTIONS"),
    "CONNECT": get(b"evil.example:443", b"X-Word: WORD", method=b"CONNECT"),
    "TRACE": get(b"/WORD", method=b"TRACE"),
    "path with a parameter in its dots": get(b"/WORD/..;/admin"),
    "path that leads out": get(b"/WORD/../../../etc/passwd"),
    "path that leads out, encoded": get(b"/WORD/%2e%2e/%2e%2e/%2e%2e/etc/passwd"),
    "path that leads out, with encoded slashes": get(b"/WORD/..%2f..%2f..%2fetc%2fpasswd"),
    "path that leads out, encoded twice": get(b"/WORD/%252e%252e/%252e%252e/etc/passwd"),
    "path that leads out, with backslashes": get(b"/WORD/..\\..\\etc\\passwd"),
    "path with dots in the middle": get(b"/a/../WORD/./b"),
    "path with an encoded zero byte": get(b"/WORD%00.txt"),
    "path with a zero byte": get(b"/WORD\x00.txt"),
    "query with a zero byte": get(b"/WORD?a=\x00"),
    "path with an encoded line end": get(b"/WORD%0d%0aX-Evil:%201"),
    "path with a blank": get(b"/WORD a"),
    "path with a tab": get(b"/WORD\ta"),
    "path with a bare CR": get(b"/WORD\rX-Evil: 1"),
    "path with a DEL": get(b"/WORD\x7f"),
    "path with a broken escape": get(b"/WORD%zz"),
    "path that ends in an escape": get(b"/WORD%"),
    "path with overlong UTF-8": get(b"/WORD/%c0%ae%c0%ae/%c0%af"),
    "path with bytes that are no UTF-8": get(b"/WORD%ff%fe"),
    "path with a fragment": get(b"/WORD#part"),
    "very long path": get(b"/WORD" + b"a" * 20_000),
    "very many segments": get(b"/WORD" + b"/a" * 3_000),
    "Host twice": get(b"/WORD", b"Host: HOST"),
    "Host twice, and differently": get(b"/WORD", b"Host: evil.example"),
    "Host twice, ours last": get(b"/WORD", b"Host: HOST", host=b"evil.example"),
    "no Host": b"GET /WORD HTTP/1.1\r\nConnection: close\r\n\r\n",
    "empty Host": get(host=b""),
    "Host with another port": get(host=b"HOST:81"),
    "Host with a port that is none": get(host=b"HOST:evil"),
    "Host in capitals": get(host=b"CAPITALS"),
    "Host with a dot at its end": get(host=b"HOST."),
    "Host with a name to log in": get(host=b"HOST@evil.example"),
    "Host with a path": get(host=b"HOST/evil"),
    "Host with a blank": get(host=b"HOST evil.example"),
    "Host in a list": get(host=b"HOST, evil.example"),
    "Host with a zero byte": get(host=b"HOST\x00evil.example"),
    "Host folded": get(host=b"HOST\r\n evil.example"),
    "Host behind a blank": b"GET /WORD HTTP/1.1\r\n Host: evil.example\r\nHost: HOST\r\nConnection: close\r\n\r\n",
}

# The first line and the headers themselves.
SHAPES: dict[str, bytes] = {
    "bare LF instead of CRLF": b"GET /WORD HTTP/1.1\nHost: HOST\nConnection: close\n\n",
    "bare LF in a header": get(b"/WORD", b"X-A: b\nX-B: c"),
    "bare CR at the end of lines": b"GET /WORD HTTP/1.1\rHost: HOST\rConnection: close\r\r",
    "folded header": get(b"/WORD", b"X-A: b\r\n c"),
    "first header begins with a blank": b"GET /WORD HTTP/1.1\r\n X-A: b\r\nHost: HOST\r\nConnection: close\r\n\r\n",
    "header without a colon": get(b"/WORD", b"nonsense"),
    "header without a name": get(b"/WORD", b": value"),
    "header with a blank in its name": get(b"/WORD", b"X A: b"),
    "header with a zero byte in its name": get(b"/WORD", b"X-\x00A: b"),
    "header with a zero byte": get(b"/WORD", b"X-A: b\x00c"),
    "header with control bytes": get(b"/WORD", b"X-A: b\x01\x02\x7fc"),
    "header with a bare CR": get(b"/WORD", b"X-A: b\rX-Evil: 1"),
    "header with an underscore": get(b"/WORD", b"X_Evil: 1"),
    "header with an underscore beside one with a hyphen": get(
        b"/WORD", b"X_Real_IP: 203.0.113.9", b"Content_Length: 7"
    ),
    "header with a dot": get(b"/WORD", b"X.Evil: 1"),
    "header that is very long": get(b"/WORD", b"X-A: " + b"a" * 20_000),
    "very many headers": get(b"/WORD", *(b"X-%d: a" % number for number in range(2_000))),
    "method in small letters": get(b"/WORD", method=b"get"),
    "method with a letter that isn't ASCII": get(b"/WORD", method="GÉT".encode()),
    "method with a zero byte": get(b"/WORD", method=b"GE\x00T"),
    "method that is very long": get(b"/WORD", method=b"A" * 5_000),
    "method that nobody knows": get(b"/WORD", method=b"BREAKFAST"),
    "method behind a blank": b" " + get(),
    "empty lines before the request": b"\r\n\r\n" + get(),
    "first line ends in a blank": get(b"/WORD", version=b"HTTP/1.1 "),
    "first line with two blanks": get(b" /WORD"),
    "first line with tabs": b"GET\t/WORD\tHTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n",
    "HTTP/0.9": b"GET /WORD\r\n",
    "HTTP/0.9, with a version": get(b"/WORD", version=b"HTTP/0.9"),
    "HTTP/1.2": get(b"/WORD", version=b"HTTP/1.2"),
    "HTTP/2.0 in the first line": get(b"/WORD", version=b"HTTP/2.0"),
    "HTTP/9.9": get(b"/WORD", version=b"HTTP/9.9"),
    "HTTP/1.11111111111111": get(b"/WORD", version=b"HTTP/1.11111111111111"),
    "http/1.1": get(b"/WORD", version=b"http/1.1"),
    "FTP/1.1": get(b"/WORD", version=b"FTP/1.1"),
    "malformed request, and another behind it": b"GET /WORD\x00 HTTP/1.1\r\nHost: HOST\r\n\r\n" + SMUGGLED,
}

# Who asks, by what way, and what the app should think it is.
LIES: dict[str, bytes] = {
    "X-Forwarded-For": get(b"/WORD", b"X-Forwarded-For: 203.0.113.9"),
    "X-Forwarded-For twice": get(b"/WORD", b"X-Forwarded-For: 203.0.113.9", b"X-Forwarded-For: 127.0.0.1"),
    "X-Forwarded-Host": get(b"/WORD", b"X-Forwarded-Host: evil.example"),
    "X-Forwarded-Proto": get(b"/WORD", b"X-Forwarded-Proto: gopher"),
    "X-Forwarded-Port": get(b"/WORD", b"X-Forwarded-Port: 666"),
    "X-Forwarded-Prefix": get(b"/WORD", b"X-Forwarded-Prefix: /evil"),
    "X-Forwarded-Server": get(b"/WORD", b"X-Forwarded-Server: evil.example"),
    "X-Forwarded-Ssl": get(b"/WORD", b"X-Forwarded-Ssl: evil"),
    "X-Forwarded-Scheme": get(b"/WORD", b"X-Forwarded-Scheme: evil"),
    "X-Forwarded-Protocol": get(b"/WORD", b"X-Forwarded-Protocol: evil"),
    "X-Forwarded-By": get(b"/WORD", b"X-Forwarded-By: evil.example"),
    "X-Forwarded-Path": get(b"/WORD", b"X-Forwarded-Path: /evil"),
    "X-Forwarded-Uri": get(b"/WORD", b"X-Forwarded-Uri: /evil"),
    "X-Forwarded-User": get(b"/WORD", b"X-Forwarded-User: evil"),
    "Forwarded": get(b"/WORD", b"Forwarded: for=203.0.113.9;host=evil.example;proto=http"),
    "X-Real-IP": get(b"/WORD", b"X-Real-IP: 203.0.113.9"),
    "Proxy": get(b"/WORD", b"Proxy: http://evil.example"),
    "all of it, taken away by Connection": get(
        b"/WORD", b"Connection: X-Real-IP, X-Forwarded-For", b"X-Real-IP: 203.0.113.9", b"X-Forwarded-For: 203.0.113.9"
    ),
}

CASES = LENGTHS | TARGETS | SHAPES | LIES

BASE2 = [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/WORD"), (b":authority", b"HOST")]


def changed2(**pseudo: bytes) -> list[tuple[bytes, bytes]]:
    """Write the headers of a request, one of them changed."""
    values = {key.removeprefix("_"): value for key, value in pseudo.items()}
    return [(key, values.get(key.decode().removeprefix(":"), value)) for key, value in BASE2]


# The same over HTTP/2, where a header may hold what would be a line's end in HTTP/1.
CASES2: dict[str, tuple[list[tuple[bytes, bytes]], bytes | None]] = {
    "line ends in a header": ([*BASE2, (b"x-a", b"b\r\nx-evil: 1")], None),
    "line ends in a header's name": ([*BASE2, (b"x-a: b\r\nx-evil", b"1")], None),
    "line ends in the path": (changed2(path=b"/WORD HTTP/1.1\r\nX-Evil: 1\r\nX-B: c"), None),
    "line ends in the method": (changed2(method=b"GET /smuggled/WORD HTTP/1.1\r\nX-A: b"), None),
    "blank in the path": (changed2(path=b"/WORD a"), None),
    "zero byte in the path": (changed2(path=b"/WORD\x00"), None),
    "path that doesn't begin with a slash": (changed2(path=b"WORD"), None),
    "absolute URI in the path": (changed2(path=b"https://evil.example/WORD"), None),
    "zero byte in a header": ([*BASE2, (b"x-a", b"b\x00c")], None),
    "header in capitals": ([*BASE2, (b"X-Evil", b"1")], None),
    "header with an underscore": ([*BASE2, (b"x_evil", b"1")], None),
    "chunks": ([*changed2(method=b"POST"), (b"transfer-encoding", b"chunked")], b"0\r\n\r\n" + SMUGGLED),
    "length that is too short": ([*changed2(method=b"POST"), (b"content-length", b"1")], b"a" + SMUGGLED),
    "length that is too long": ([*changed2(method=b"POST"), (b"content-length", b"500")], SMUGGLED),
    "header of the connection": ([*BASE2, (b"connection", b"x-real-ip")], None),
    "Host that differs": ([*BASE2, (b"host", b"evil.example")], None),
    "authority that differs": ([*changed2(authority=b"evil.example"), (b"host", b"HOST")], None),
    "authority twice": ([*BASE2, (b":authority", b"evil.example")], None),
    "path twice": ([*BASE2, (b":path", b"/smuggled/WORD")], None),
    "scheme that is none": (changed2(scheme=b"gopher"), None),
    "scheme with a path": (changed2(scheme=b"https://evil.example/?"), None),
    "pseudo-header that nobody knows": ([*BASE2, (b":evil", b"1")], None),
    "pseudo-header behind the others": ([(b"x-a", b"b"), *BASE2], None),
    "X-Forwarded-For": ([*BASE2, (b"x-forwarded-for", b"203.0.113.9")], None),
    "fragment in the path": (changed2(path=b"/WORD#part"), None),
}
