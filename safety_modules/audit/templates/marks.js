// Marks: kept by this browser for this audit alone, exported to and imported from marks.json.
const FORMAT = "safety-modules marks";
const KEY = "safety-modules audit " + meta.audit;
let marks = new Map(); // row -> {mark, time, sample, reviewer?, type?, level?}
let reviewer = "";
let sampleSize = Math.min(100, meta.sample);
let unsaved = false; // marks that live in this page alone

function restore(text) {
  if (!text) return;
  const kept = JSON.parse(text);
  reviewer = kept.reviewer || "";
  sampleSize = kept.sample || sampleSize;
  marks = new Map(kept.marks);
}

function load() {
  try {
    restore(localStorage.getItem(KEY));
    localStorage.setItem(KEY + " test", "1");
    localStorage.removeItem(KEY + " test");
  } catch (error) {
    find("storage").hidden = false;
  }
  window.addEventListener("storage", (event) => { // the same report in another tab
    if (event.key !== KEY || !event.newValue) return;
    restore(event.newValue);
    changed();
  });
  window.addEventListener("beforeunload", (event) => {
    if (unsaved) event.preventDefault();
  });
}

function keep() {
  try {
    localStorage.setItem(KEY, JSON.stringify({ reviewer, sample: sampleSize, marks: [...marks] }));
    unsaved = false;
  } catch (error) {
    unsaved = marks.size > 0;
    find("storage").hidden = false;
  }
}

// In the random sample only marks made there count: what was marked elsewhere is judged anew.
function markOf(i) {
  const found = marks.get(index.row[i]);
  return found && (!filters.sample || found.sample) ? found : null;
}

// A mark speaks of the picture, so it holds for every flagged row that shows the very same one.
function setMark(i, mark) {
  for (const k of samePicture.get(index.digest[i])) {
    const before = marks.get(index.row[k]);
    if (mark === null) {
      marks.delete(index.row[k]);
      continue;
    }
    const made = { mark, time: new Date().toISOString(), sample: Boolean(before && before.sample) };
    if (k === i && filters.sample) made.sample = true;
    if (reviewer) made.reviewer = reviewer;
    marks.set(index.row[k], made);
  }
  keep();
}

function correct(i, type, level) {
  for (const k of samePicture.get(index.digest[i])) {
    const found = marks.get(index.row[k]);
    const same = type === index.type[k] && level === levelOf(k);
    const { type: _, level: __, ...rest } = found;
    marks.set(index.row[k], same ? rest : { ...rest, type, level });
  }
  keep();
}

function exported() {
  const rows = [...marks.keys()].sort((a, b) => a - b);
  return JSON.stringify(
    {
      format: FORMAT,
      version: 1,
      audit: meta.audit,
      sample: sampleSize,
      marks: rows.map((row) => ({ row, image_digest: index.digest[position.get(row)], ...marks.get(row) })),
    },
    null,
    1,
  );
}

function exportMarks() {
  if (!marks.size) return say("Nothing to export: no picture is marked yet.");
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([exported() + "\n"], { type: "application/json" }));
  link.download = "marks.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  unsaved = false;
  say(`${marks.size} marks exported to marks.json.`);
}

function importMarks(text) {
  let given;
  try {
    given = JSON.parse(text);
  } catch (error) {
    return say("Not imported: this file is not JSON.");
  }
  if (!given || given.format !== FORMAT || given.version !== 1 || !Array.isArray(given.marks)) {
    return say("Not imported: this is no marks.json of version 1.");
  }
  if (given.audit !== meta.audit) return say("Not imported: these are the marks of another audit.");
  const known = (one) =>
    one && position.has(one.row) && index.digest[position.get(one.row)] === one.image_digest
    && (one.mark === "confirm" || one.mark === "reject");
  if (!given.marks.every(known)) return say("Not imported: a mark is of a row that this report does not have.");
  let added = 0;
  const conflicts = [];
  for (const { row, image_digest, ...mark } of given.marks) {
    const mine = marks.get(row);
    if (mine && mine.mark !== mark.mark) {
      conflicts.push(row);
    } else if (!mine || (mark.sample && !mine.sample)) {
      marks.set(row, mark);
      added += 1;
    }
  }
  keep();
  const kept = conflicts.length ? ` ${conflicts.length} kept as they were here: row ${conflicts.join(", ")}.` : "";
  say(`${added} marks imported.${kept}`);
}
