(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const list = document.querySelector(".entries");
  const tools = document.querySelector(".tools");
  const entries = all(".entry", list).map((node) => ({
    node, text: node.textContent.toLowerCase(), audios: all(".audio", node), ...node.dataset,
  }));
  const link = (audio) => audio.querySelector(".download");
  const position = (audio) => audio.querySelector("[type=range]");

  // One player for all: files load when they are played, and two never sound at once.
  const player = new Audio();
  let current = null;

  function show(audio, seconds) {
    const range = position(audio);
    range.value = seconds;
    // The length of a file may be unknown until it loads.
    const end = Number(range.max) ? `${Number(range.max).toFixed(1)} s` : "? s";
    range.setAttribute("aria-valuetext", `${seconds.toFixed(1)} of ${end}`);
    audio.querySelector(".time").textContent = `${seconds.toFixed(1)} / ${end}`;
  }
  function state() {
    const playing = current && !player.paused;
    current.classList.toggle("playing", playing);
    const button = current.querySelector(".play");
    button.setAttribute("aria-label", `${playing ? "Pause" : "Play"} ${current.getAttribute("aria-label")}`);
  }
  function follow() {
    if (!player.seeking) show(current, player.currentTime);
    if (!player.paused) requestAnimationFrame(follow);
  }
  function select(audio) {
    if (audio === current) return;
    if (current) {
      player.pause();
      state();
      current.classList.remove("current");
    }
    current = audio;
    current.classList.add("current");
    player.src = link(audio).href;
    player.currentTime = Number(position(audio).value);
  }
  function toggle(audio) {
    select(audio);
    if (player.paused) player.play().catch(failed);
    else player.pause();
  }
  function failed(error) {
    if (error.name !== "AbortError") current.querySelector(".time").textContent = "cannot be played";
  }
  player.addEventListener("loadedmetadata", () => {
    if (Number.isFinite(player.duration)) position(current).max = player.duration;
    show(current, player.currentTime);
  });
  player.addEventListener("play", () => { state(); follow(); });
  player.addEventListener("pause", state);
  player.addEventListener("ended", () => { player.currentTime = 0; show(current, 0); });
  function seek(audio, seconds) {
    select(audio);
    player.currentTime = Math.min(Math.max(seconds, 0), position(audio).max || 0);
    show(audio, player.currentTime);
  }
  list.addEventListener("input", (event) => seek(event.target.closest(".audio"), Number(event.target.value)));
  list.addEventListener("pointerup", (event) => {
    // The arrow keys seek only where the position has the focus by keyboard.
    if (event.target.matches("[type=range]")) event.target.closest(".audio").querySelector(".play").focus();
  });

  // Favorites of all parts are kept under the folder's address, where the browser allows it.
  const key = `clip2clap ${location.pathname.replace(/[^/]*$/, "")} ${document.title}`;
  let favorites = {};
  try { favorites = JSON.parse(localStorage.getItem(key)) || {}; } catch { /* kept in memory */ }
  function mark(audio) {
    const chosen = audio.dataset.file in favorites;
    audio.querySelector(".star").setAttribute("aria-pressed", chosen);
  }
  function star(audio) {
    const { node } = entries.find((entry) => entry.audios.includes(audio));
    const { name, label, probability, seed } = node.dataset;
    const { file, similarity } = audio.dataset;
    const number = (text) => (text === "" ? null : Number(text));
    if (file in favorites) delete favorites[file];
    else favorites[file] = {
      file, image: name, label, probability: number(probability), similarity: number(similarity), seed: number(seed),
    };
    try { localStorage.setItem(key, JSON.stringify(favorites)); } catch { /* kept in memory */ }
    mark(audio);
    count();
  }
  function count() {
    if (tools) tools.querySelector(".chosen").textContent = Object.keys(favorites).length;
  }
  const formats = {
    txt: (rows) => rows.map((row) => `${row.file}\n`).join(""),
    json: (rows) => JSON.stringify(rows, null, 2),
    csv: (rows) => {
      const names = ["file", "image", "label", "probability", "similarity", "seed"];
      const quoted = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
      const lines = rows.map((row) => names.map((name) => quoted(String(row[name] ?? ""))));
      return [names, ...lines].map((line) => `${line.join(",")}\r\n`).join("");
    },
  };
  function exportFavorites() {
    const format = tools.elements.format.value;
    const file = document.createElement("a");
    file.href = URL.createObjectURL(new Blob([formats[format](Object.values(favorites))]));
    file.download = `favorites.${format}`;
    file.click();
    setTimeout(() => URL.revokeObjectURL(file.href), 1000);
  }

  let visible = entries;
  function matches(entry, wanted) {
    if (wanted.text && !entry.text.includes(wanted.text)) return false;
    if (wanted.label && entry.label !== wanted.label) return false;
    if (wanted.similarity !== "" && !(parseFloat(entry.similarity) >= wanted.similarity)) return false;
    if (wanted.show === "failed") return entry.status !== "done";
    if (wanted.show === "favorites") return entry.audios.some((audio) => audio.dataset.file in favorites);
    return true;
  }
  function arrange() {
    const value = (name) => tools.elements[name].value;
    const wanted = {
      text: value("text").trim().toLowerCase(), label: value("label"), show: value("show"),
      similarity: value("similarity") === "" ? "" : Number(value("similarity")),
    };
    const order = value("order");
    const numeric = ["similarity", "loudness", "seconds"].includes(order);
    const sign = tools.elements.reverse.checked ? -1 : 1;
    const compare = (a, b) => {
      if (order === "as made") return sign * (entries.indexOf(a) - entries.indexOf(b));
      // What has no value is last either way.
      if (!a[order] || !b[order]) return (a[order] ? 0 : 1) - (b[order] ? 0 : 1);
      const words = a[order].localeCompare(b[order], undefined, { numeric: true });
      return sign * (numeric ? b[order] - a[order] : words);
    };
    for (const entry of entries) entry.node.hidden = !matches(entry, wanted);
    const sorted = [...entries].sort(compare);
    list.append(...sorted.map((entry) => entry.node));
    visible = sorted.filter((entry) => !entry.node.hidden);
    tools.querySelector(".shown").textContent = `${visible.length} of ${entries.length} images`;
    document.querySelector(".none").hidden = visible.length > 0;
  }

  function move(step, inside) {
    const shown = visible.filter((entry) => entry.audios.length);
    if (!shown.length) return;
    const at = shown.findIndex((entry) => entry.audios.includes(current));
    const entry = shown[at];
    let next;
    if (!entry) next = shown[step > 0 ? 0 : shown.length - 1].audios[0];
    else if (inside) next = entry.audios[entry.audios.indexOf(current) + step];
    else next = shown[at + step]?.audios[0];
    if (!next) return;
    const playing = current && !player.paused;
    select(next);
    if (playing) toggle(next);
    next.querySelector(".play").focus({ preventScroll: true });
    next.scrollIntoView({ block: "nearest" });
    if (!inside) next.closest(".entry").scrollIntoView({ block: "nearest" });
  }
  const moves = { ArrowDown: [1], j: [1], ArrowUp: [-1], k: [-1], ArrowRight: [1, true], ArrowLeft: [-1, true] };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.closest("input:not([type=range], [type=checkbox]), select");
    if (typing) {
      if (event.key === "Escape") typing.blur();
      return;
    }
    const seeking = event.target.matches("[type=range]") && { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const pressing = event.target.closest("button, a, summary, [type=checkbox]");
    if (event.key === "/" && tools) tools.elements.text.focus();
    else if (event.key === " " && !pressing) {
      const audio = current ?? visible.flatMap((entry) => entry.audios)[0];
      if (audio) toggle(audio);
    } else if (event.key === "f" && current && tools) star(current);
    else if (seeking) seek(event.target.closest(".audio"), Number(event.target.value) + seeking);
    else if (event.key in moves) move(...moves[event.key]);
    else return;
    event.preventDefault();
  });
  list.addEventListener("click", (event) => {
    const audio = event.target.closest(".audio");
    if (event.target.matches(".play")) toggle(audio);
    else if (event.target.matches(".star")) star(audio);
  });

  for (const audio of all(".audio")) {
    mark(audio);
    show(audio, 0);
  }
  if (tools) {
    const labels = new Set(entries.map((entry) => entry.label).filter(Boolean));
    for (const label of [...labels].sort()) tools.elements.label.add(new Option(label));
    count();
    arrange();
    tools.addEventListener("input", arrange);
    tools.addEventListener("submit", (event) => event.preventDefault());
    tools.elements.export.addEventListener("click", exportFavorites);
  }
})();
