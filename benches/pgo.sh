#!/usr/bin/env bash
# Builds the examples `edge` and `axum` with a profile of what they do under load, so that the
# compiler knows which code runs for each request: see "Built with a profile" in README.md here.
#
#   rustup component add llvm-tools
#   benches/pgo.sh            # a quarter of an hour on two cores
#
# The binaries are target/pgo/release/examples/edge and axum.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "pgo: $1" >&2; exit 1; }
profdata=$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin/llvm-profdata
[[ -x $profdata ]] || fail "llvm-profdata is missing: rustup component add llvm-tools"
for tool in curl h2load openssl; do
  command -v "$tool" >/dev/null || fail "$tool is missing (h2load is in Debian's nghttp2-client)"
done

target=$PWD/target/pgo
raw=$target/raw
folder=$(mktemp -d)
running=()
finish() {
  ((${#running[@]})) && kill "${running[@]}" 2>/dev/null
  rm -rf "$folder"
}
trap finish EXIT

build() { # flags examples...
  local flags=$1; shift
  RUSTFLAGS="${RUSTFLAGS:-} $flags" cargo build --release --features full --target-dir "$target" \
    "${@/#/--example=}"
}
# With the settings of the second build: cargo names crates by them, and what was counted under
# other names is of no use to the compiler, which does not say so.
build "-Cprofile-generate=$raw" backend edge axum
mkdir -p "$target/instrumented"
cp "$target"/release/examples/{backend,edge,axum} "$target/instrumented/"
# What the build's own programs wrote.
rm -rf "$raw"

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 \
  -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \
  -keyout "$folder/key.pem" -out "$folder/cert.pem" 2>/dev/null

start() { # url-to-wait-for program arguments...
  local url=$1; shift
  "$@" >>"$folder/out.log" 2>&1 &
  running+=($!)
  for _ in {1..100}; do
    curl -sk --max-time 2 -o /dev/null "$url" && return
    sleep 0.1
  done
  cat "$folder/out.log" >&2
  fail "$1 does not answer at $url"
}

settings() { # sections...
  cat <<TOML
[server]
threads = 1
[[listen]]
address = "127.0.0.1:$plain"
[[listen]]
address = "127.0.0.1:$tls"
[listen.tls]
certificates = [{ chain = "$folder/cert.pem", key = "$folder/key.pem" }]
alpn = ["h2", "http/1.1"]
[pool]
strategy = "round-robin"
TOML
  for i in 1 2 3; do
    printf '[[pool.backends]]\nid = "b%d"\nurl = "http://127.0.0.1:%d"\n' "$i" $((base + i))
  done
  printf '%s\n' "$@"
}

load() { # requests url options...
  local requests=$1 url=$2; shift 2
  h2load -n "$requests" -c 32 -m 10 "$@" "$url" >"$folder/load.log" 2>&1 ||
    { cat "$folder/load.log" >&2; fail "no load on $url"; }
  grep -q "succeeded, 0 failed, 0 errored" "$folder/load.log" ||
    { cat "$folder/load.log" >&2; fail "requests to $url failed"; }
}

# Ports that are free, with luck; a port that is taken fails at the start.
base=$((20000 + RANDOM % 20000))
plain=$((base + 8)) tls=$((base + 9))
for i in 1 2 3; do
  LLVM_PROFILE_FILE=/dev/null start "http://127.0.0.1:$((base + i))/health" \
    "$target/instrumented/backend" "b$i" "127.0.0.1:$((base + i))"
done
head -c 3000 /dev/zero | tr '\0' x >"$folder/body"

train() { # program settings-sections...
  local program=$1; shift
  settings "$@" >"$folder/edge.toml"
  start "http://127.0.0.1:$plain/" "$target/instrumented/$program" "$folder/edge.toml"
  local pid=${running[-1]} cookie
  cookie=$(curl -si "http://127.0.0.1:$plain/" |
    sed -n 's/^[Ss]et-[Cc]ookie: \([^;]*\).*/\1/p' | head -1)
  local with=(-H "cookie: theme=dark; ${cookie:-a=b}" -H "user-agent: load/1.0")
  load 40000 "http://127.0.0.1:$plain/some/path?query=1" --h1 "${with[@]}"
  load 20000 "https://127.0.0.1:$tls/some/path?query=1" --h1 "${with[@]}"
  load 20000 "https://127.0.0.1:$tls/some/path?query=1" "${with[@]}"
  load 2000 "http://127.0.0.1:$plain/echo" --h1 "${with[@]}" -d "$folder/body"
  load 1000 "https://127.0.0.1:$tls/echo" "${with[@]}" -d "$folder/body"
  # Connections that make one request.
  h2load --h1 -n 500 -c 500 "https://127.0.0.1:$tls/" >/dev/null 2>&1 || true
  kill -TERM "$pid"
  wait "$pid" || fail "$program did not end well"
}
log="[access_log]
file = \"$folder/access.jsonl\""
sticky="[sticky]
keys = [\"$(openssl rand -hex 32)\"]"
health='[health]
path = "/health"
interval = "1s"
timeout = "900ms"'
for program in edge axum; do
  train "$program"
  train "$program" "$health" "$sticky" "$log"
done

"$profdata" merge -o "$target/examples.profdata" "$raw"/*.profraw
build "-Cprofile-use=$target/examples.profdata" edge axum
echo "target/pgo/release/examples/edge and axum are built with a profile"
