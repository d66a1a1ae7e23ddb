// A picture as large as the window allows, on top of the page; a click or Escape puts it away.
function enlarge(source, words) {
  const box = document.createElement("dialog");
  box.className = "enlarged";
  box.setAttribute("aria-label", words || "The picture, enlarged");
  const image = document.createElement("img");
  image.src = source;
  image.alt = words || "";
  box.append(image);
  box.addEventListener("click", () => box.close());
  box.addEventListener("close", () => box.remove());
  document.body.append(box);
  box.showModal();
}
