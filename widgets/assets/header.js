export function render({ model }) {
  const paper = model.arxiv ? element("a", { href: `https://arxiv.org/abs/${model.arxiv}`, target: "_blank", rel: "noreferrer" }, `arXiv ${model.arxiv}`) : null
  const badge = element("span", { class: "badge", role: "status" }), detail = element("span", { class: "detail" })
  const bar = element("progress", { max: 1 })
  const cancel = element("button", { type: "button", class: "cancel", onclick: () => model.send_msg({ kind: "cancel" }) }, "cancel")
  const theme = element("button", { type: "button", class: "theme", onclick: () => model.send_msg({ kind: "theme", theme: model.theme === "dark" ? "light" : "dark" }) })
  const copy = async (text, node, done) => {
    const before = node.textContent
    try { await navigator.clipboard.writeText(text); node.textContent = done } catch { window.prompt("Copy this:", text) }
    setTimeout(() => { node.textContent = before }, 1500)
  }
  const share = element("button", { type: "button", class: "share", title: "copy a link that brings these knobs back",
    onclick: () => copy(window.location.href, share, "link copied") }, "share")
  const python = element("button", { type: "button", class: "python", title: "copy the call that makes this run",
    onclick: () => copy(model.python, python, "copied") }, "copy as Python")
  const message = element("span"), dismiss = element("button", { type: "button", onclick: () => model.send_msg({ kind: "dismiss" }), "aria-label": "close this message" }, "✕")
  const retry = element("button", { type: "button", class: "retry", onclick: () => model.send_msg({ kind: "run" }) }, "run again")
  const banner = element("div", { class: "banner", role: "alert" }, message, retry, dismiss)
  const root = element("header", {},
    element("div", { class: "top" },
      element("div", { class: "name" }, element("h1", {}, model.title), element("span", { class: "year" }, model.year ? String(model.year) : ""), paper),
      element("div", { class: "state" }, badge, bar, detail, cancel),
      element("div", { class: "tools" }, theme, model.whole_page ? share : null, python)),
    element("p", { class: "question" }, model.question), banner)

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
    message.textContent = model.message
  }
  const paint = () => {
    if (!model.whole_page) return
    document.documentElement.style.colorScheme = model.theme
    document.body.style.background = model.theme === "dark" ? model.dark_page : model.light_page
    document.body.style.margin = "0"
    document.title = `${model.title} · Workbench`
  }
  for (const name of ["state", "detail", "progress", "message", "tone", "theme"]) model.on(name, show)
  model.on("theme", paint)
  show(); paint()
  if (model.ask_theme && window.matchMedia("(prefers-color-scheme: dark)").matches) model.send_msg({ kind: "theme", theme: "dark" })
  return root
}
