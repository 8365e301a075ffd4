// Links under the title of a row's page, on Datasette 0.65. The page holds this text itself.
(() => {
  const title = document.querySelector("section.content h1");
  if (!title) {
    return;
  }
  const paragraph = document.createElement("p");
  paragraph.className = "embed-row-links";
  for (const link of __LINKS__) {
    const a = document.createElement("a");
    a.href = link.href;
    a.title = link.description;
    a.textContent = link.label;
    paragraph.append(paragraph.childNodes.length ? ", " : "", a);
  }
  title.after(paragraph);
})();
