// The page: what is drawn when, and what clicks and keys do.
let current = null; // row of the card that had the focus last
let waits = false; // for pictures further down in the file, which is still being read

function draw() {
  const grid = find("cards");
  const cards = [];
  const here = entries.slice(page * PAGE, (page + 1) * PAGE);
  waits = document.readyState === "loading" && here.some(({ i, others }) => ![i, ...others].every((k) => find("d" + k)));
  if (waits) cards.push(make("p", "soft", "Still reading the pictures of this page."));
  for (const entry of waits ? [] : here) {
    cards.push(makeCard(entry.i, entry));
    if (unfolded.has(entry.i)) cards.push(members(entry));
  }
  grid.replaceChildren(...cards);
  if (!cards.length) grid.append(make("p", "soft", "Nothing here: loosen the filters."));
  const all = entries.reduce((sum, entry) => sum + 1 + entry.others.length, 0);
  const folded = all - entries.length;
  find("found").textContent = `${all} of ${total}` + (folded ? `, ${folded} folded as near-duplicates` : "");
  find("page").value = page + 1;
  find("page").max = pages();
  find("pages").textContent = `of ${pages()}`;
  for (const id of ["previous", "next"]) find(id).disabled = page === (id === "next" ? pages() - 1 : 0);
  count();
}

function members(entry) {
  const box = make("section", "members");
  box.setAttribute("aria-label", "Near-duplicates");
  const shown = unfolded.get(entry.i);
  box.append(...entry.others.slice(0, shown).map((i) => makeCard(i)));
  if (shown < entry.others.length) box.append(button("more", `Show ${Math.min(PAGE, entry.others.length - shown)} more`));
  box.dataset.leader = entry.i;
  return box;
}

function count() {
  const { confirmed, rejected, sampled } = progress();
  find("marked").textContent = `${confirmed} confirmed, ${rejected} rejected, ${total - confirmed - rejected} unmarked`;
  find("sampled").textContent = `${sampled} of ${sampleSize} judged`;
}

function changed() {
  find("reveal").checked = false; // every page begins blurred
  list();
  draw();
}

function update() { // a filter moved: begin at its first page
  page = 0;
  unfolded.clear();
  changed();
}

function turn(to) {
  page = to;
  unfolded.clear();
  changed();
  find("review").scrollIntoView();
}

function marked(i, mark) {
  const found = markOf(i);
  const next = found && found.mark === mark ? null : mark;
  setMark(i, next);
  const others = samePicture.get(index.digest[i]).length - 1;
  const also = others ? `, with ${others} other rows of the same picture` : "";
  say(`Row ${index.row[i]} ${next === null ? "unmarked" : next + "ed"}${also}.`);
  document.querySelectorAll(".card").forEach(showMark);
  count();
  return next;
}

function group(i, mark) {
  const entry = entries.find((one) => one.i === i);
  for (const k of [i, ...entry.others]) setMark(k, mark);
  say(`${entry.others.length + 1} pictures ${mark}ed.`);
  document.querySelectorAll(".card").forEach(showMark);
  count();
}

function redraw(i, act) { // keep the page's reveals, and the focus on the button that was pressed
  const open = [...document.querySelectorAll(".picture[aria-pressed=true]")].map((one) => one.closest(".card").dataset.i);
  draw();
  for (const k of open) {
    const card = document.querySelector(`.card[data-i="${k}"]`);
    if (card) reveal(card.querySelector(".picture"), true, Number(k));
  }
  const card = document.querySelector(`.card[data-i="${i}"]`);
  const target = card && card.querySelector(`[data-act="${act}"]`);
  if (target) target.focus();
}

function act(card, target) {
  const i = Number(card.dataset.i);
  const name = target.dataset.act;
  if (name === "reveal") look(target, i);
  if (name === "confirm" || name === "reject") marked(i, name);
  if (name === "confirm-all") group(i, "confirm");
  if (name === "reject-all") group(i, "reject");
  if (name === "unfold") {
    if (!unfolded.delete(i)) unfolded.set(i, PAGE);
    redraw(i, name);
  }
}

function look(picture, i) { // first reveal it, then show it large; V blurs it again
  const image = picture.querySelector("img");
  if (picture.getAttribute("aria-pressed") !== "true" || !image) reveal(picture, true, i);
  else enlarge(image.src, `Picture of row ${index.row[i]}: ${index.source[i]}`);
}

function currentCard(cards) { // the one that was looked at last, or the first that can be seen
  const known = cards.find((card) => card.dataset.i === current);
  return known || cards.find((card) => card.getBoundingClientRect().bottom > 60) || cards[0];
}

function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, dialog")) return;
  const cards = [...document.querySelectorAll(".card")];
  const focused = event.target.closest(".card");
  const card = focused || currentCard(cards);
  if (!card) return;
  const name = event.key.toLowerCase();
  const step = (by) => { // without a focus the first step goes to the card itself
    const next = focused || by === 0 ? cards[cards.indexOf(card) + by] : card;
    if (next) next.querySelector(".picture").focus();
  };
  const i = Number(card.dataset.i);
  if ("crva".includes(name) && name.length === 1 && !focused) step(0);
  if (name === "j") step(1);
  else if (name === "k") step(-1);
  else if (name === "n" || name === "p") {
    turn(page + (name === "n" ? 1 : -1));
    const first = document.querySelector(".picture");
    if (first) first.focus({ preventScroll: true });
  } else if (name === "c" || name === "r") {
    const next = cards[cards.indexOf(card) + 1];
    if (marked(i, name === "c" ? "confirm" : "reject") && next) next.querySelector(".picture").focus();
  } else if (name === "v") {
    const picture = card.querySelector(".picture");
    reveal(picture, picture.getAttribute("aria-pressed") !== "true", i);
  }
  else if (name === "a") find("attention").click();
  else return;
  event.preventDefault();
}

function listen() {
  const grid = find("cards");
  grid.addEventListener("click", (event) => {
    const target = event.target.closest("button[data-act]");
    if (!target) return;
    if (target.dataset.act === "more") {
      const leader = Number(target.closest(".members").dataset.leader);
      unfolded.set(leader, unfolded.get(leader) + PAGE);
      return redraw(leader, "unfold");
    }
    act(target.closest(".card"), target);
  });
  grid.addEventListener("change", (event) => {
    const as = event.target.closest(".as");
    if (!as) return;
    const [type, level] = [...as.querySelectorAll("select")].map((one) => one.value);
    correct(Number(as.closest(".card").dataset.i), type, level);
    document.querySelectorAll(".card").forEach(showMark);
  });
  grid.addEventListener("focusin", (event) => {
    const card = event.target.closest(".card");
    if (card) current = card.dataset.i;
  });
  document.addEventListener("keydown", key);
  const input = (id, apply) => find(id).addEventListener("input", (event) => { apply(event.target); update(); });
  document.querySelectorAll("[name=type]").forEach((one) => {
    one.addEventListener("change", () => { filters.type = one.value; update(); });
  });
  input("level", (field) => { filters.level = field.value; });
  input("score", (field) => { filters.score = Number(field.value); find("score-value").textContent = filters.score.toFixed(1); });
  input("disagree", (field) => { filters.disagree = field.checked; });
  input("mark", (field) => { filters.mark = field.value; });
  input("search", (field) => { filters.search = field.value.trim().toLowerCase(); });
  find("reveal").addEventListener("change", (event) => {
    document.querySelectorAll(".card").forEach((card) => {
      reveal(card.querySelector(".picture"), event.target.checked, Number(card.dataset.i));
    });
  });
  find("attention").addEventListener("change", (event) => grid.classList.toggle("heat", event.target.checked));
  find("previous").addEventListener("click", () => turn(page - 1));
  find("next").addEventListener("click", () => turn(page + 1));
  find("page").addEventListener("change", (event) => turn((parseInt(event.target.value, 10) || 1) - 1));
  find("reviewer").addEventListener("change", (event) => { reviewer = event.target.value.trim(); keep(); });
  find("export").addEventListener("click", exportMarks);
  find("import").addEventListener("change", async (event) => {
    const [file] = event.target.files;
    if (file) importMarks(await file.text());
    event.target.value = "";
    changed();
  });
  find("size").addEventListener("change", (event) => {
    sampleSize = Math.max(1, Math.min(meta.sample, parseInt(event.target.value, 10) || 1));
    event.target.value = sampleSize;
    keep();
    update();
  });
  find("sample").addEventListener("click", (event) => {
    filters.sample = !filters.sample;
    event.target.setAttribute("aria-pressed", String(filters.sample));
    event.target.textContent = filters.sample ? "Leave the random sample" : "Judge a random sample";
    document.body.classList.toggle("sampling", filters.sample);
    document.querySelectorAll("#filters input, #filters select").forEach((one) => { one.disabled = filters.sample; });
    update();
  });
}

load();
find("reviewer").value = reviewer;
find("size").value = sampleSize;
listen();
update();
document.addEventListener("DOMContentLoaded", () => { if (waits) draw(); });
