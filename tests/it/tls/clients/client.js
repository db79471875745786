// Prints a line for each exchange: version, protocol and resumption as the client sees them, then the
// answer of the server.
"use strict";
const fs = require("node:fs");
const http2 = require("node:http2");
const https = require("node:https");
const tls = require("node:tls");

const [port, folder] = [Number(process.argv[2]), process.argv[3]];
const read = (name) => fs.readFileSync(`${folder}/${name}`);

/** Connects; `kept.session` is resumed, and replaced by the session that the server offers. */
function connect(host, version, alpn, { own = false, kept = {} }) {
  const socket = tls.connect({
    host: "127.0.0.1",
    port,
    servername: host,
    ca: read("ca.pem"),
    minVersion: version,
    maxVersion: version,
    ALPNProtocols: [alpn],
    session: kept.session,
    ...(own ? { cert: read("own.pem"), key: read("own-key.pem") } : {}),
  });
  socket.on("session", (session) => (kept.session = session));
  return socket;
}

function exchange(host, version, alpn, options = {}) {
  const socket = connect(host, version, alpn, options);
  return new Promise((done, failed) => {
    socket.on("error", failed);
    let answer = "";
    const add = (part) => (answer += part);
    const end = () => {
      const seen = [socket.getProtocol(), socket.alpnProtocol, socket.isSessionReused()];
      console.log(...seen, "|", answer.trim());
    };
    socket.on("secureConnect", () => {
      if (alpn === "h2") {
        const session = http2.connect(`https://${host}:${port}`, { createConnection: () => socket });
        session.on("error", failed);
        const stream = session.request({ ":path": "/" });
        stream.setEncoding("utf8");
        stream.on("data", add);
        stream.on("error", failed);
        stream.on("end", () => {
          end();
          session.close(done);
        });
      } else {
        const path = { host, path: "/", headers: { host }, createConnection: () => socket };
        const request = https.request(path, (response) => {
          response.setEncoding("utf8");
          response.on("data", add);
          response.on("end", () => {
            end();
            done();
          });
        });
        request.on("error", failed);
        request.end();
      }
    });
  });
}

(async () => {
  for (const version of ["TLSv1.2", "TLSv1.3"]) {
    for (const alpn of ["http/1.1", "h2"]) {
      const kept = {};
      await exchange("open.test", version, alpn, { kept });
      await exchange("open.test", version, alpn, { kept });
    }
    await exchange("required.test", version, "http/1.1", { own: true });
    await exchange("optional.test", version, "h2", { own: true });
    await exchange("optional.test", version, "h2");
    await exchange("required.test", version, "http/1.1").catch((error) => {
      console.log("refused:", error.message);
    });
  }
})();
