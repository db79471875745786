"""Prints a line for each exchange: version, protocol and resumption as the client sees them, then the
answer of the server."""

import socket
import ssl
import struct
import sys

PORT, FOLDER = int(sys.argv[1]), sys.argv[2]


def context(version, alpn, own=False):
    made = ssl.create_default_context(cafile=FOLDER + "/ca.pem")
    made.minimum_version = made.maximum_version = version
    made.set_alpn_protocols([alpn])
    if own:
        made.load_cert_chain(FOLDER + "/own.pem", FOLDER + "/own-key.pem")
    return made


def http1(host):
    return f"GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode()


def http2(host):
    def frame(kind, flags, stream, payload):
        length = struct.pack(">I", len(payload))[1:]
        return length + struct.pack(">BBI", kind, flags, stream) + payload

    # GET, https, / of the static table, then :authority.
    fields = b"\x82\x87\x84\x41" + bytes([len(host)]) + host.encode()
    return (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + frame(4, 0, 0, b"")
        + frame(1, 5, 1, fields)
        + frame(7, 0, 0, bytes(8))
    )


def exchange(context, host, session=None):
    tcp = socket.create_connection(("127.0.0.1", PORT), timeout=60)
    with context.wrap_socket(tcp, server_hostname=host, session=session) as tls:
        alpn = tls.selected_alpn_protocol()
        tls.sendall(http2(host) if alpn == "h2" else http1(host))
        answer = b""
        while part := tls.recv(65536):
            answer += part
        said = next(line for line in answer.split(b"\n") if b"alpn=" in line)
        said = said[said.index(b"TLSv") :].decode()
        print(tls.version(), alpn, tls.session_reused, "|", said)
        return tls.session


for version in ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3:
    for alpn in "http/1.1", "h2":
        made = context(version, alpn)
        session = exchange(made, "open.test")
        exchange(made, "open.test", session)
    made = context(version, "http/1.1", own=True)
    exchange(made, "required.test")
    exchange(made, "optional.test")
    made = context(version, "http/1.1")
    exchange(made, "optional.test")
    try:
        exchange(made, "required.test")
    except ssl.SSLError as error:
        print("refused:", error)
