// The runs that can be compared: choose, name, annotate, download, delete, upload. The key of the shelf stays in this browser.
export function render({ model }) {
  const page = (system, values) => model.app ? address(model.app, { system, ...values }) : address(`./${system}`, values)
  const send = (kind, more = {}) => model.send_msg({ kind, ...more })
  const theme = element("button", { type: "button", class: "theme", onclick: () => send("theme", { theme: model.theme === "dark" ? "light" : "dark" }) })
  const file = element("input", { type: "file", accept: ".zip", class: "unseen", id: "upload-file", tabindex: -1, "aria-hidden": "true" })
  const upload = element("button", { type: "button", onclick: () => file.click() }, "upload a run")
  const message = element("span"), dismiss = element("button", { type: "button", onclick: () => send("dismiss"), "aria-label": "close this message" }, "✕")
  const banner = element("div", { class: "banner", role: "alert" }, message, dismiss)
  const list = element("div", { class: "runs", role: "group", "aria-label": "runs to compare" })
  const root = element("header", { role: "none" },
    element("div", { class: "top" }, element("div", { class: "name" }, element("h1", {}, "Compare runs"), element("a", { href: model.app || "./" }, "all papers")),
      element("div", { class: "tools" }, upload, file, theme)),
    element("p", { class: "question" }, "What changed, and was it worth it?"), banner, list)

  let chosen = [...model.chosen] // ahead of the server: a second click need not wait for the answer to the first
  function choose(key, on) {
    chosen = chosen.filter((k) => k !== key)
    if (on) chosen.push(key)
    send("choose", { keys: chosen })
  }
  function row(run) {
    const box = element("input", { type: "checkbox", "aria-label": `compare ${run.name}`, onchange: () => choose(run.key, box.checked) })
    box.checked = chosen.includes(run.key)
    box.disabled = !box.checked && chosen.length >= model.most
    const order = chosen.indexOf(run.key)
    const about = [run.system, run.kept.replace("T", " ").replace("+00:00", " UTC"), run.size ? `${(run.size / 1e6).toFixed(1)} MB` : ""].filter(Boolean).join(" · ")
    if (!run.own) return element("div", { class: "run-row", "data-key": run.key },
      box, element("span", { class: "order" }, order >= 0 ? String(order + 1) : ""),
      element("div", { class: "what" }, element("span", { class: "run-name" }, run.name)),
      element("span", { class: "about" }, run.system), element("a", { href: page(run.system, {}) }, "open"))
    const name = element("input", { type: "text", class: "run-name", maxlength: 80, "aria-label": "name of the run",
      onchange: () => send("rename", { key: run.key, name: name.value }) })
    name.value = run.name
    const note = element("input", { type: "text", class: "run-note", maxlength: 2000, placeholder: "a note", "aria-label": `note on ${run.name}`,
      onchange: () => send("rename", { key: run.key, note: note.value }) })
    note.value = run.note
    const sure = element("button", { type: "button", class: "delete", "aria-label": `delete ${run.name}`, onclick: () => {
      if (sure.dataset.asked) return send("delete", { key: run.key })
      sure.dataset.asked = "yes"; sure.textContent = "delete for good?"
      setTimeout(() => { delete sure.dataset.asked; sure.textContent = "delete" }, 4000)
    } }, "delete")
    return element("div", { class: "run-row", "data-key": run.key },
      box, element("span", { class: "order" }, order >= 0 ? String(order + 1) : ""),
      element("div", { class: "what" }, name, note), element("span", { class: "about" }, about),
      element("a", { href: page(run.system, { kept: run.key }), "aria-label": `open ${run.name}` }, "open"),
      element("button", { type: "button", onclick: () => send("download", { key: run.key }), "aria-label": `download ${run.name}` }, "download"), sure)
  }
  function show() {
    const own = model.runs.filter((r) => r.own), shipped = model.runs.filter((r) => !r.own)
    const held = root.getRootNode().activeElement
    if (held?.type === "text" && list.contains(held)) held.blur()
    list.replaceChildren(
      element("h2", {}, "Your runs", element("small", {}, "kept on this server, for this browser")),
      ...(own.length ? own.map(row) : [element("p", { class: "none" }, model.visitor ? "None yet. Open a paper, run it, and press “keep”." : "Your shelf is being opened.")]),
      element("h2", {}, "Runs that the papers ship"), ...shipped.map(row))
    upload.disabled = file.disabled = !model.visitor
    banner.hidden = !model.message
    banner.dataset.tone = model.tone
    message.textContent = model.message
    theme.textContent = model.theme === "dark" ? "light" : "dark"
    theme.title = `switch to the ${theme.textContent} theme`
  }
  file.addEventListener("change", async () => {
    const chosen = file.files[0]
    file.value = ""
    if (!chosen) return
    const count = Math.max(1, Math.ceil(chosen.size / model.chunk))
    if (chosen.size > model.max_bytes) return send("upload", { index: 0, count: 1e6, name: chosen.name })
    for (let index = 0; index < count; index++) {
      const bytes = new Uint8Array(await chosen.slice(index * model.chunk, (index + 1) * model.chunk).arrayBuffer())
      let text = ""
      for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192))
      send("upload", { index, count, name: chosen.name, data: btoa(text) })
    }
  })
  model.on("msg:custom", (event) => saveFile(event))
  function rewrite() { // the address brings these runs back: shipped ones for everybody, kept ones for this browser
    if (!model.whole_page) return
    const asked = new URLSearchParams(location.search)
    if (model.chosen.length) asked.set("runs", model.chosen.join(","))
    else asked.delete("runs")
    const search = `${asked}`
    history.replaceState(history.state, "", `${location.pathname}${search && "?"}${search}${location.hash}`)
  }
  model.on("chosen", () => { chosen = [...model.chosen]; show(); rewrite() })
  for (const name of ["runs", "message", "tone"]) model.on(name, show)
  model.on("visitor", () => { remember(model.visitor); show() })
  const paint = () => paintPage(model, "Compare runs · Workbench")
  model.on("theme", () => { paint(); show() })
  paint(); show()
  send("hello", { visitor: remembered() })
  if (model.ask_theme && window.matchMedia("(prefers-color-scheme: dark)").matches) send("theme", { theme: "dark" })
  return root
}
