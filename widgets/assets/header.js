export function render({ model }) {
  const paper = model.arxiv ? element("a", { href: `https://arxiv.org/abs/${model.arxiv}`, target: "_blank", rel: "noreferrer" }, `arXiv ${model.arxiv}`) : null
  const badge = element("span", { class: "badge", role: "status" }), detail = element("span", { class: "detail" })
  const bar = element("progress", { max: 1 })
  const cancel = element("button", { type: "button", class: "cancel", onclick: () => model.send_msg({ kind: "cancel" }) }, "cancel")
  const theme = element("button", { type: "button", class: "theme", onclick: () => model.send_msg({ kind: "theme", theme: model.theme === "dark" ? "light" : "dark" }) })
  // Plain http from another machine: the browser has no clipboard for pages.
  const shown = element("textarea", { readonly: true, "aria-label": "text to copy", spellcheck: "false" })
  const dialog = element("dialog", { class: "by-hand", "aria-label": "copy by hand", onclose: () => menu.firstChild.focus() },
    element("p", {}, "A page may not copy by itself here. The text is selected: copy it with Ctrl+C, or ⌘C."), shown,
    element("button", { type: "button", onclick: () => dialog.close() }, "close"))
  const byHand = (text) => {
    shown.value = text
    shown.rows = Math.min(12, text.split("\n").length + 1)
    dialog.showModal()
    shown.focus()
    shown.select()
  }
  const copy = async (text, node, done) => {
    const before = node.textContent
    try { await navigator.clipboard.writeText(text); node.textContent = done } catch { byHand(text); return }
    setTimeout(() => { node.textContent = before }, 1500)
  }
  const item = (name, title, onclick, text) => element("button", { type: "button", class: name, title, onclick }, text)
  const link = item("share", "copy a link that brings these knobs back", () => copy(window.location.href, link, model.lacks ? `copied, without ${model.lacks}: too long for a link` : "link copied"), "copy link")
  const python = item("python", "copy the call that makes this run", () => copy(model.python, python, "copied"), "copy as Python")
  const command = item("command", "copy the command line that makes this run", () => copy(model.command, command, "copied"), "copy as command")
  const fetchFile = (what) => () => { menu.open = false; model.send_msg({ kind: "download", what }) }
  const record = item("record", "save the run on show as one file; wb.load opens it", fetchFile("record"), "download record")
  const offline = item("offline", "save every picture of this run in one file that works offline", fetchFile("page"), "download offline page")
  const menu = element("details", { class: "menu" }, element("summary", {}, "share"),
    element("div", { class: "items" }, model.whole_page ? link : null, python, command, record, offline))
  menu.addEventListener("keydown", (event) => { if (event.key === "Escape") { menu.open = false; menu.firstChild.focus() } })
  menu.addEventListener("focusout", (event) => { if (event.relatedTarget && !menu.contains(event.relatedTarget)) menu.open = false })
  const keep = item("keep", "keep this run on your shelf, to compare it and to find it again", () => model.send_msg({ kind: "keep" }), "keep")
  const compare = element("a", { href: model.compare, class: "to-compare" }, "compare runs")
  const message = element("span"), dismiss = element("button", { type: "button", onclick: () => model.send_msg({ kind: "dismiss" }), "aria-label": "close this message" }, "✕")
  const retry = element("button", { type: "button", class: "retry", onclick: () => model.send_msg({ kind: "run" }) }, "run again")
  const banner = element("div", { class: "banner", role: "alert" }, message, retry, compare, dismiss)
  const root = element("header", { role: "none" },
    element("div", { class: "top" },
      element("div", { class: "name" }, model.whole_page ? element("a", { href: model.home, class: "home", title: "all papers" }, "Workbench") : null, element("h1", {}, model.title), element("span", { class: "year" }, model.year ? String(model.year) : ""), paper),
      element("div", { class: "state" }, badge, bar, detail, cancel),
      element("div", { class: "tools" }, model.whole_page ? keep : null, menu, theme)),
    element("p", { class: "question" }, model.question), banner, dialog)

  const words = { recorded: "recorded run", measured: "measured here", running: "running", waiting: "waiting", cancelled: "cancelled", failed: "stopped", empty: "no run yet" }
  function show() {
    badge.textContent = words[model.state] ?? model.state
    badge.dataset.state = model.state
    detail.textContent = model.detail
    const busy = model.state === "running" || model.state === "waiting"
    cancel.hidden = !busy
    bar.hidden = model.state !== "running"
    if (model.progress >= 0) bar.value = model.progress; else bar.removeAttribute("value")
    theme.textContent = model.theme === "dark" ? "light" : "dark"
    theme.title = `switch to the ${theme.textContent} theme`
    banner.hidden = !model.message
    banner.dataset.tone = model.tone
    retry.hidden = model.tone !== "error"
    compare.hidden = model.tone !== "kept"
    message.textContent = model.message
  }
  const paint = () => paintPage(model, `${model.title} · Workbench`)
  for (const name of ["state", "detail", "progress", "message", "tone", "theme"]) model.on(name, show)
  const rewrite = () => { if (model.whole_page) history.replaceState(history.state, "", `${location.pathname}${model.search}${location.hash}`) }
  model.on("theme", paint)
  model.on("search", rewrite)
  model.on("msg:custom", saveFile)
  model.on("visitor", () => remember(model.visitor))
  show(); paint(); rewrite()
  if (model.whole_page) model.send_msg({ kind: "hello", visitor: remembered() })
  if (model.ask_theme && window.matchMedia("(prefers-color-scheme: dark)").matches) model.send_msg({ kind: "theme", theme: "dark" })
  return root
}
