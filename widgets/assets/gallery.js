// The cards of the catalogue: searched and filtered here, without a word to the server.
export function render({ model }) {
  const search = element("input", { type: "search", id: "find", placeholder: "search papers", "aria-label": "search papers" })
  const choose = (id, label, values) => element("select", { id, "aria-label": label },
    element("option", { value: "" }, label), ...values.map((v) => element("option", { value: v }, v)))
  const unique = (values) => [...new Set(values)].filter(Boolean).sort()
  const family = choose("family", "every family", unique(model.rows.map((r) => r.family)))
  const group = choose("group", "every picture", unique(model.rows.flatMap((r) => r.groups)))
  const inClass = element("input", { type: "checkbox", id: "in-class" })
  const theme = element("button", { type: "button", class: "theme", onclick: () => model.send_msg({ kind: "theme", theme: model.theme === "dark" ? "light" : "dark" }) })
  const count = element("p", { class: "count", role: "status" })
  const tools = element("div", { class: "filters", role: "search" }, search, family, group,
    element("label", { title: model.class_hint }, inClass, " runs in a class"), count)
  const cards = element("div", { class: "families" })
  const root = element("div", { class: "gallery" },
    element("div", { class: "top" }, element("div", {}, element("h1", {}, "Workbench"),
      element("p", {}, "Papers on efficient machine learning to run, watch and change.")),
      element("div", { class: "tools" }, model.compare ? element("a", { class: "button", href: model.compare }, "compare runs") : null, theme)),
    tools, cards)

  function card(row) {
    const link = row.href ? { href: address(row.href, model.theme === "dark" ? { theme: "dark" } : {}) } : {}
    const box = element(row.href ? "a" : "div", { class: `card ${row.href ? "" : "broken"}`, "data-name": row.name, ...link })
    const picture = row.pictures[model.theme]
    const frame = element("div", { class: "thumb" })
    if (picture) frame.append(element("img", { src: picture, alt: "", width: 460, height: 300 }))
    else frame.append(element("span", {}, row.name))
    const facts = [row.needs && row.needs !== "not measured" ? `a small run: ${row.needs}` : "", row.models.join(", ")].filter(Boolean)
    box.append(frame, element("h3", {}, row.question || row.title || row.name),
      element("p", { class: "about" }, [row.title, row.year || ""].filter(Boolean).join(" · ")),
      element("p", { class: "facts" }, ...facts.map((text) => element("span", {}, text)),
        row.runs_in_class ? element("span", { class: "yes" }, "✓ runs in a class") : null))
    if (row.status !== "ready") box.append(element("p", { class: "why" }, row.status))
    return box
  }
  const fits = (row) => search.value.toLowerCase().split(/\s+/).every((w) => row.said.includes(w))
    && (!family.value || row.family === family.value) && (!group.value || row.groups.includes(group.value))
    && (!inClass.checked || row.runs_in_class)
  function show() {
    const rows = model.rows.filter(fits)
    const families = unique(rows.map((r) => r.family || "not loaded"))
    cards.replaceChildren(...families.map((name) => {
      const found = rows.filter((r) => (r.family || "not loaded") === name).map(card)
      return element("section", { "aria-label": name }, element("h2", {}, name),
        element("div", { class: "card-grid", style: `--cards:${found.length}` }, ...found))
    }))
    count.textContent = rows.length === model.rows.length ? `${rows.length} papers` : rows.length ? `${rows.length} of ${model.rows.length} papers` : ""
    if (!rows.length) cards.replaceChildren(element("p", { class: "empty" }, "No paper fits. ",
      element("button", { type: "button", onclick: () => { search.value = family.value = group.value = ""; inClass.checked = false; show() } }, "show all")))
    theme.textContent = model.theme === "dark" ? "light" : "dark"
    theme.title = `switch to the ${theme.textContent} theme`
  }
  for (const input of [search, family, group, inClass]) input.addEventListener("input", show)
  const paint = () => paintPage(model, "Workbench")
  model.on("theme", () => { paint(); show() })
  paint(); show()
  if (model.ask_theme && window.matchMedia("(prefers-color-scheme: dark)").matches) model.send_msg({ kind: "theme", theme: "dark" })
  return root
}
