// A picture, its verdict, the conversation, and the buttons that mark it.
function drawAttention(canvas, picture, base64, [rows, columns]) {
  const bytes = Uint8Array.from(atob(base64), (sign) => sign.charCodeAt(0));
  const low = Math.min(...bytes);
  const spread = Math.max(...bytes) - low || 1;
  const small = document.createElement("canvas");
  small.width = columns;
  small.height = rows;
  const pixels = new ImageData(columns, rows);
  bytes.forEach((byte, k) => {
    const heat = (byte - low) / spread; // red where warm, yellow where hot
    pixels.data.set([255, Math.max(0, 2 * heat - 1) * 255, 0, heat * 160], 4 * k);
  });
  small.getContext("2d").putImageData(pixels, 0, 0);
  canvas.width = picture.naturalWidth;
  canvas.height = picture.naturalHeight;
  const side = Math.min(canvas.width, canvas.height); // the tower saw the square in the middle, or the whole picture
  const [width, height] = meta.fit === "stretch" ? [canvas.width, canvas.height] : [side, side];
  const brush = canvas.getContext("2d");
  brush.imageSmoothingQuality = "high";
  brush.drawImage(small, (canvas.width - width) / 2, (canvas.height - height) / 2, width, height);
}

function pictureButton(i, data) {
  const button = make("button", "picture");
  button.type = "button";
  button.dataset.act = "reveal";
  if (data.picture === null) {
    button.append(make("span", "hint", "no picture"));
    return button;
  }
  const image = make("img");
  image.alt = "";
  const heat = make("canvas");
  image.onload = () => data.attention && drawAttention(heat, image, data.attention, data.grid);
  image.src = "data:image/webp;base64," + data.picture;
  button.append(image, heat, make("span", "hint", "Reveal"));
  reveal(button, find("reveal").checked, i);
  return button;
}

function reveal(button, shown, i) {
  button.setAttribute("aria-pressed", String(shown));
  button.setAttribute("aria-label", `Picture of row ${index.row[i]}, ${shown ? "shown: enlarge it" : "blurred: reveal it"}`);
}

function talk(i, data) {
  const box = make("dl", "talk");
  for (const [who, text] of [["Question", index.question[i]], ["Answer", data.answer]]) {
    if (!text) continue;
    const said = make("dd", "", text);
    if (text.length > 220) said.tabIndex = 0; // it scrolls
    box.append(make("dt", "", who), said);
  }
  if (!box.firstChild) box.append(make("dd", "soft", "No conversation: the picture alone was judged."));
  return box;
}

function chances(data) {
  const more = make("details", "chances");
  more.append(make("summary", "", "Probabilities"));
  const table = make("ul");
  meta.labels.forEach((label, k) => {
    const line = make("li");
    const bar = make("i");
    bar.style.width = 100 * data.probabilities[k] + "%";
    line.append(make("span", "", label), make("span", "number", data.probabilities[k].toFixed(3)), bar);
    table.append(line);
  });
  more.append(table);
  return more;
}

function choice(name, options, value) {
  const select = make("select");
  select.dataset.act = name;
  select.setAttribute("aria-label", `${name} it really is`);
  for (const option of options) select.append(new Option(option, option, false, option === value));
  return select;
}

function button(act, text, title) {
  const made = make("button", act, text);
  made.type = "button";
  made.dataset.act = act;
  if (title) made.title = title;
  return made;
}

function showMark(card) {
  const i = Number(card.dataset.i);
  const mark = markOf(i);
  card.dataset.mark = mark ? mark.mark : "";
  for (const act of ["confirm", "reject"]) {
    card.querySelector(`button.${act}`).setAttribute("aria-pressed", String(Boolean(mark) && mark.mark === act));
  }
  const labels = card.querySelector(".as");
  labels.hidden = !(mark && mark.mark === "confirm");
  if (!labels.hidden) {
    labels.querySelector("[data-act=type]").value = mark.type || index.type[i];
    labels.querySelector("[data-act=level]").value = mark.level || levelOf(i);
  }
}

function makeCard(i, entry) {
  const data = detail(i);
  const card = make("article", "card");
  card.dataset.i = i;
  const body = make("div", "body");
  const head = make("h3");
  head.append(make("span", `chip ${index.level[i]}`, `${index.type[i]}, ${index.level[i]}`));
  head.append(make("span", "number", `score ${index.score[i].toFixed(2)}`));
  const where = make("p", "where", index.source[i]);
  const about = make("p", "soft", `row ${index.row[i]}${index.rule[i] ? `, rule ${index.rule[i]}` : ""}`);
  if (index.frame[i]) about.append(`, ${index.frame[i]}`);
  body.append(head, where, about);
  if (index.label[i] !== null) {
    body.append(make("p", disagrees(i) ? "label differs" : "label", `labelled ${index.label[i]} in the data`));
  }
  const acts = make("div", "acts");
  acts.append(button("confirm", "Confirm risk", "Key C"), button("reject", "Reject", "Key R"));
  const as = make("div", "as");
  as.append(make("span", "", "as"), choice("type", meta.types, index.type[i]), choice("level", meta.levels, levelOf(i)));
  acts.append(as);
  body.append(talk(i, data), chances(data), acts);
  if (entry && entry.others.length) {
    const fold = make("div", "fold");
    const open = unfolded.has(i);
    const count = entry.others.length;
    const toggle = button("unfold", `${open ? "Fold" : "Show"} ${count} near-duplicate${count > 1 ? "s" : ""}`);
    toggle.setAttribute("aria-expanded", String(open));
    fold.append(toggle, button("confirm-all", `Confirm all ${count + 1}`), button("reject-all", `Reject all ${count + 1}`));
    body.append(fold);
  }
  card.append(pictureButton(i, data), body);
  showMark(card);
  return card;
}
