// Which pictures are listed, in which order, folded how, on which page.
const PAGE = 24;
const filters = { type: "", level: "", score: -Infinity, disagree: false, mark: "", search: "", sample: false };
const unfolded = new Map(); // position -> near-duplicates shown
let entries = []; // [{i, others}]
let page = 0;

function passes(i) {
  const mark = markOf(i);
  return (
    (!filters.type || index.type[i] === filters.type)
    && (!filters.level || index.level[i] === filters.level)
    && index.score[i] >= filters.score
    && (!filters.disagree || disagrees(i))
    && (!filters.mark || filters.mark === (mark ? mark.mark : "none"))
    && (!filters.search || matches(i, filters.search))
  );
}

function list() {
  entries = [];
  if (filters.sample) {
    for (let i = 0; i < total; i++) {
      if (index.sample[i] >= 0 && index.sample[i] < sampleSize) entries.push({ i, others: [] });
    }
    entries.sort((a, b) => index.sample[a.i] - index.sample[b.i]);
  } else {
    const leaders = new Map();
    for (let i = 0; i < total; i++) {
      if (!passes(i)) continue;
      const leader = leaders.get(index.group[i]);
      if (leader) {
        leader.others.push(i);
      } else {
        const entry = { i, others: [] };
        leaders.set(index.group[i], entry);
        entries.push(entry);
      }
    }
  }
  page = Math.max(0, Math.min(page, pages() - 1));
}

const pages = () => Math.max(1, Math.ceil(entries.length / PAGE));

function progress() {
  let confirmed = 0;
  let rejected = 0;
  let sampled = 0;
  for (const [row, one] of marks) {
    if (one.mark === "confirm") confirmed += 1;
    else rejected += 1;
    const place = index.sample[position.get(row)];
    if (one.sample && place >= 0 && place < sampleSize) sampled += 1;
  }
  return { confirmed, rejected, sampled };
}
