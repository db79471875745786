"use strict";
// The live part of the page. The functions of text.rs have the same names here.
(() => {
  const byId = (id) => document.getElementById(id);
  const UNKNOWN = "–";
  const MANY_ERRORS = 0.01;
  let token = "";
  let latest = null;
  // They come when one of them has changed.
  let known = null;
  let received = 0;

  // ---- words

  const trim = (text) => (text.includes(".") ? text.replace(/0+$/, "").replace(/\.$/, "") : text);
  const number = (v) => (v === 0 || v >= 100 ? v.toFixed(0) : trim(v.toFixed(v >= 10 ? 1 : 2)));
  const percent = (share) => `${number(share * 100)} %`;
  const millis = (ms) => (ms >= 1000 ? `${number(ms / 1000)} s` : `${number(ms)} ms`);
  const two = (large, unit, small, smaller) => (small ? `${large} ${unit} ${small} ${smaller}` : `${large} ${unit}`);
  const duration = (exact) => {
    const s = Math.floor(Math.max(exact, 0));
    if (s < 60) return `${s} s`;
    if (s < 3600) return two(Math.floor(s / 60), "min", s % 60, "s");
    if (s < 86400) return two(Math.floor(s / 3600), "h", Math.floor(s / 60) % 60, "min");
    return two(Math.floor(s / 86400), "d", Math.floor(s / 3600) % 24, "h");
  };
  const between = (from, to) => (Date.parse(to) - Date.parse(from)) / 1000;
  const reasonText = (reason) => (reason.detail ? `${reason.code}: ${reason.detail}` : reason.code);
  const words = {
    state: (b) => (b.state === "weightless" ? "weight 0" : b.state),
    place: (b) => [b.tier > 0 ? `tier ${b.tier}` : "", b.locality || ""].filter(Boolean).join(", "),
    order: (b, now) => {
      const left = b.in_flight === 0 ? "no request left" : b.in_flight === 1 ? "1 request left" : `${b.in_flight} requests left`;
      if (b.mode === "maintenance") return left;
      if (b.mode !== "draining" || !b.deadline) return "";
      const ahead = between(now, b.deadline);
      return ahead > 0 ? `${left}, sessions stay ${duration(ahead)}` : `${left}, sessions have moved`;
    },
    reason: (b) => {
      const parts = [];
      if (b.health === "unhealthy") parts.push(b.reason ? reasonText(b.reason) : "unhealthy");
      if (b.circuit === "half_open") parts.push("under trial");
      if (b.asks_to_drain) parts.push("the backend asks to be drained");
      if (b.capacity < 1) parts.push(`capacity ${percent(b.capacity)}`);
      if (b.flaps > 1) parts.push(`${b.flaps} changes of late`);
      return parts.join(", ");
    },
    since: (b, now) => `${b.health} for ${duration(between(b.since, now))}`,
    check: (b) => (b.last_check ? `${b.last_check.passed ? "passed" : "failed"}, ${b.last_check.code}` : UNKNOWN),
    check_detail: (b, now) => {
      const check = b.last_check;
      if (!check) return "";
      return [`${duration(between(check.time, now))} ago`, millis(check.ms), check.detail].filter(Boolean).join(", ");
    },
    weight: (b) => `${b.weight}`,
    weight_note: (b) => {
      const inForce = b.weight_in_force > 0 && Math.abs(b.weight_in_force - b.weight) > 0.001;
      return `${percent(b.share)} of new${inForce ? `, ${number(b.weight_in_force)} in force` : ""}`;
    },
    in_flight: (b) => (b.max_in_flight === null ? `${b.in_flight}` : `${b.in_flight} / ${b.max_in_flight}`),
    per_second: (b) => number(b.requests_per_second),
    requests: (b) => `${b.requests} in all`,
    errors: (b) => (b.error_share === null ? UNKNOWN : percent(b.error_share)),
    quantiles: (b) => (b.p50_ms === null || b.p99_ms === null ? UNKNOWN : `${millis(b.p50_ms)} / ${millis(b.p99_ms)}`),
    sessions: (b) => (b.sessions === null ? UNKNOWN : `${b.sessions}`),
    session_note: (b) => (b.session_share === null ? "" : percent(b.session_share)),
    ejections: (b) => `${b.ejections}`,
    id: (b) => b.id,
    address: (b) => b.address,
  };
  const EXPIRY = { valid: "valid", warn: "expires soon", error: "expires very soon", expired: "expired" };
  const other_names = (c) => {
    const names = c.names.filter((name) => name !== c.name);
    const more = c.name_count - c.names.length;
    return (more ? [...names, `and ${more} more`] : names).join(", ");
  };
  const source = (c) => (c.on_demand ? "on demand" : c.source && c.source !== c.name ? c.source : "");
  const left = (c, now) => {
    const ahead = between(now, c.not_after);
    return c.expiry === "expired" ? `${duration(-ahead)} ago` : `${duration(ahead)} left`;
  };
  const until = (c) => c.not_after.slice(0, 16).replace("T", " ");
  // The cells of a row: their name, and the class and text of each line.
  const certificate_cells = (c, now) => [
    ["name", ["id", c.name], ["sub", other_names(c)], ["sub", source(c)]],
    ["state", ["badge", EXPIRY[c.expiry]], ["sub", left(c, now)]],
    ["until", ["", until(c)]],
    ["listener", ["", c.listener]],
    ["key", ["", c.key]],
    ["issuer", ["", c.issuer], ["sub", `serial ${c.serial}`]],
  ];
  const line_label = (b) => {
    const known = b.latency_ms.filter((point) => point !== null);
    if (!known.length) return "no latency yet";
    const [last, max] = [known[known.length - 1], Math.max(...known)];
    return `latency of ${b.latency_of}: ${millis(last)} now, ${millis(max)} at most`;
  };
  const line_path = (points) => {
    const max = Math.max(0, ...points.filter((point) => point !== null));
    const skipped = Math.max(0, 60 - points.length);
    let [path, draws] = ["", false];
    points.forEach((point, at) => {
      if (point === null) {
        draws = false;
        return;
      }
      const y = 24 - 22 * (max > 0 ? point / max : 0);
      path += `${draws ? "L" : "M"}${(skipped + at) * 2} ${y.toFixed(1)}${draws ? "" : "h0.1"}`;
      draws = true;
    });
    return path;
  };

  // ---- rendering

  const put = (node, text) => {
    if (node && node.textContent !== text) node.textContent = text;
  };
  const attribute = (node, name, value) => {
    if (node && node.getAttribute(name) !== value) node.setAttribute(name, value);
  };

  const renderTiles = (pool) => {
    const supply = pool.usable === 0 || pool.panic_mode ? "bad" : pool.usable < pool.backends ? "warn" : "good";
    const unknown = (value, text) => (value === null ? UNKNOWN : text(value));
    const tiles = {
      usable: [`${pool.usable}`, supply, `of ${pool.backends}`],
      in_flight: [`${pool.in_flight}`, "", ""],
      requests_per_second: [number(pool.requests_per_second), "", ""],
      errors: [unknown(pool.error_share, percent), pool.error_share !== null && pool.error_share >= MANY_ERRORS ? "bad" : "", ""],
      p50: [unknown(pool.p50_ms, millis), "", ""],
      p99: [unknown(pool.p99_ms, millis), "", ""],
      skew: [unknown(pool.sticky_skew, number), "", ""],
    };
    for (const tile of byId("pool").children) {
      const [value, kind, note] = tiles[tile.dataset.tile];
      put(tile.querySelector("[data-v]"), value);
      put(tile.querySelector("[data-n]"), note);
      attribute(tile, "class", kind);
    }
  };

  const renderRow = (row, b, now) => {
    attribute(row, "class", b.state);
    for (const cell of row.querySelectorAll("[data-f]")) {
      const text = words[cell.dataset.f];
      if (text) put(cell, text(b, now));
    }
    const cell = (name) => row.querySelector(`[data-f="${name}"]`);
    cell("check").className = b.last_check && !b.last_check.passed ? "failed" : "";
    cell("errors").className = b.error_share !== null && b.error_share >= MANY_ERRORS ? "hot" : "";
    attribute(cell("share").firstElementChild, "width", (b.share * 100).toFixed(1));
    attribute(cell("session_share").firstElementChild, "width", ((b.session_share || 0) * 100).toFixed(1));
    attribute(cell("line"), "aria-label", line_label(b));
    attribute(cell("line").firstElementChild, "d", line_path(b.latency_ms));
    renderOrders(row, b);
  };

  const renderOrders = (row, b) => {
    const modes = { drain: "draining", maintenance: "maintenance", ready: "ready" };
    for (const button of row.querySelectorAll("button[data-action]")) {
      button.disabled = !canOrder() || b.mode === modes[button.dataset.action];
    }
    const form = row.querySelector("form");
    if (!form) return;
    const input = form.querySelector("input");
    input.disabled = form.querySelector("button").disabled = !canOrder();
    // What an operator types is not overwritten.
    if (document.activeElement !== input && input.dataset.known !== `${b.weight}`) {
      input.value = input.dataset.known = `${b.weight}`;
    }
  };

  const newRow = (b) => {
    const row = byId("row").content.firstElementChild.cloneNode(true);
    row.dataset.id = b.id;
    const input = row.querySelector("input");
    if (input) input.setAttribute("aria-label", `Weight of ${b.id}`);
    return row;
  };

  const renderBackends = (status) => {
    const body = byId("backends");
    const rows = new Map([...body.children].map((row) => [row.dataset.id, row]));
    status.backends.forEach((b, at) => {
      const row = rows.get(b.id) || newRow(b);
      rows.delete(b.id);
      if (body.children[at] !== row) body.insertBefore(row, body.children[at] || null);
      renderRow(row, b, status.time);
    });
    for (const gone of rows.values()) gone.remove();
  };

  const renderCertificates = ({ certificates, certificates_total }, time) => {
    byId("certificates-section").hidden = !certificates.length;
    const shown = certificates.length;
    put(byId("certificates-note"), shown < certificates_total ? `the ${shown} of ${certificates_total} that expire first` : "the first to expire first");
    const rows = certificates.map((c) => [c.expiry, certificate_cells(c, time)]);
    const body = byId("certificates");
    const key = JSON.stringify(rows);
    if (body.dataset.key === key) return;
    body.dataset.key = key;
    const titles = [...body.parentNode.tHead.rows[0].cells].map((head) => head.textContent);
    const made = rows.map(([expiry, cells]) => {
      const row = document.createElement("tr");
      attribute(row, "role", "row");
      attribute(row, "class", expiry);
      cells.forEach(([name, ...lines], at) => {
        const cell = row.appendChild(document.createElement(at ? "td" : "th"));
        attribute(cell, "role", at ? "cell" : "rowheader");
        if (!at) attribute(cell, "scope", "row");
        attribute(cell, "data-label", titles[at]);
        for (const [cls, text] of lines) {
          const line = cell.appendChild(document.createElement("span"));
          line.className = cls;
          line.dataset.c = name;
          line.textContent = text;
        }
      });
      return row;
    });
    body.replaceChildren(...made);
  };

  const renderChanges = (changes) => {
    const list = byId("changes");
    const key = JSON.stringify(changes);
    if (list.dataset.key === key) return;
    list.dataset.key = key;
    const items = changes.map((change) => {
      const item = document.createElement("li");
      const add = (name, text, cls) => {
        const node = item.appendChild(document.createElement(name));
        node.textContent = text;
        if (cls) node.className = cls;
        return node;
      };
      add("time", change.time.slice(11, 19)).dateTime = change.time;
      add("span", change.backend, "id");
      add("span", change.from ? `${change.from} → ${change.to}` : change.to, change.to);
      add("span", change.reason ? reasonText(change.reason) : "", "muted");
      return item;
    });
    if (!items.length) {
      const none = document.createElement("li");
      none.className = "none";
      none.textContent = "None yet";
      items.push(none);
    }
    list.replaceChildren(...items);
  };

  const announce = (status) => {
    const before = latest && new Map(latest.backends.map((b) => [b.id, b.state]));
    if (!before) return;
    const changed = status.backends.filter((b) => before.get(b.id) !== b.state);
    if (!changed.length) return;
    const texts = changed.map((b) => [`${b.id} is ${words.state(b)}`, words.reason(b)].filter(Boolean).join(": "));
    const isBad = changed.some((b) => b.state === "down" || b.state === "ejected");
    tell("news", isBad ? "bad" : "info", `${status.time.slice(11, 19)} ${texts.join("; ")}`);
  };

  const render = (status) => {
    announce(status);
    latest = status;
    received = Date.now();
    document.title = `${status.pool.usable}/${status.pool.backends} usable – evenkeel${status.name ? ` ${status.name}` : ""}`;
    put(document.querySelector("[data-p=window]"), duration(Math.max(1, Math.round(status.pool.window_seconds))));
    put(byId("time"), status.time.slice(11, 19));
    renderTiles(status.pool);
    renderBackends(status);
    if (known) renderCertificates(known, status.time);
    renderChanges(status.changes);
  };

  const tell = (id, kind, text) => {
    const node = byId(id);
    node.dataset.kind = kind;
    put(node, text);
  };
  const notice = (kind, text) => tell("notice", kind, text);

  // ---- updates

  const link = (state, text) => {
    byId("link").dataset.link = state;
    put(byId("link-text"), text);
  };

  const connect = () => {
    const events = new EventSource("status/events");
    // Each is followed by a status.
    events.addEventListener("certificates", (event) => {
      known = JSON.parse(event.data);
    });
    events.addEventListener("status", (event) => {
      render(JSON.parse(event.data));
      link("live", "Live");
    });
    events.addEventListener("error", () => {
      link("lost", "Connection lost, as of");
      // The browser connects again by itself, but not after a refusal.
      if (events.readyState === EventSource.CLOSED) setTimeout(connect, 10000);
    });
  };

  setInterval(() => {
    if (received && Date.now() - received > 5000) link("lost", "No update, as of");
  }, 1000);

  // ---- orders

  const tokenForm = byId("token-form");
  const canOrder = () => !tokenForm || token !== "";

  const send = async (id, action, fields) => {
    try {
      const response = await fetch(`backends/${encodeURIComponent(id)}/${action}`, {
        method: "POST",
        headers: { "content-type": "application/json", ...(token && { authorization: `Bearer ${token}` }) },
        body: JSON.stringify(fields),
        cache: "no-store",
      });
      const answer = await response.json().catch(() => ({}));
      if (response.ok) {
        notice("good", `${id}: ${action} was carried out`);
        return;
      }
      notice("bad", `${id}: ${action} was refused (${response.status}): ${answer.message || response.statusText}`);
    } catch (error) {
      notice("bad", `${id}: ${action} could not be sent: ${error.message}`);
    }
  };

  const confirmed = (title, text, action) =>
    new Promise((resolve) => {
      const dialog = byId("confirm");
      put(byId("confirm-title"), title);
      put(byId("confirm-text"), text);
      put(byId("confirm-ok"), action);
      const asksDeadline = action === "Drain";
      byId("deadline-line").hidden = !asksDeadline;
      byId("deadline").disabled = !asksDeadline;
      dialog.returnValue = "";
      dialog.addEventListener("close", () => resolve(dialog.returnValue === "ok"), { once: true });
      dialog.showModal();
    });

  const isLast = (id) => {
    const usable = latest ? latest.backends.filter((b) => b.usable) : [];
    return usable.length === 1 && usable[0].id === id;
  };

  const order = async (id, action) => {
    const last = isLast(id) ? `${id} is the last usable backend: new requests will be answered with 503.` : "";
    if (action === "drain") {
      const text = `${id} gets no new traffic. ${last}`;
      if (await confirmed(`Drain ${id}?`, text, "Drain")) await send(id, action, { deadline: byId("deadline").value });
      return;
    }
    if (action === "maintenance" && last && !(await confirmed(`Maintenance of ${id}?`, last, "Start maintenance"))) return;
    await send(id, action, {});
  };

  byId("backends").addEventListener("click", (event) => {
    const button = event.target.closest("button[data-action]");
    if (button) order(button.closest("tr").dataset.id, button.dataset.action);
  });
  byId("backends").addEventListener("submit", (event) => {
    event.preventDefault();
    const input = event.target.querySelector("input");
    input.dataset.known = "";
    send(event.target.closest("tr").dataset.id, "weight", { weight: Number(input.value) });
  });
  if (tokenForm) {
    tokenForm.addEventListener("submit", (event) => {
      event.preventDefault();
      token = byId("token").value.trim();
      byId("token").value = "";
      put(byId("token-state"), token ? "in use until the page closes" : "none: read-only");
      if (latest) renderBackends(latest);
    });
  }

  document.documentElement.classList.add("js");
  for (const row of byId("backends").children) {
    for (const button of row.querySelectorAll("button, input")) button.disabled = button.disabled || !canOrder();
  }
  connect();
})();
