// Newest wins, one in flight, and the last value always arrives. `send` gets {seq, ...}; call `done(seq)` on the answer.
function newestWins(send) {
  let seq = 0, flying = 0, next = null
  const launch = (message) => { flying = ++seq; next = null; send({ ...message, seq }) }
  return {
    push(message, merge) { flying ? (next = merge && next ? merge(next, message) : message) : launch(message) },
    done(answered) { if (answered >= flying) { flying = 0; if (next) launch(next) } },
    waits: () => flying > 0,
  }
}

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value)
    else if (value === true) node.setAttribute(name, "")
    else if (value !== false && value != null) node.setAttribute(name, value)
  }
  node.append(...children.filter((child) => child != null))
  return node
}

// An address with further values in its query.
function address(base, values) {
  const query = new URLSearchParams(values).toString()
  return query ? base + (base.includes("?") ? "&" : "?") + query : base
}

const reducedMotion = () => window.matchMedia("(prefers-reduced-motion: reduce)").matches

// The key of this browser's shelf. Where storage is forbidden the shelf lasts as long as the page.
function remembered() { try { return localStorage.getItem("workbench-visitor") ?? "" } catch { return "" } }
function remember(key) { try { if (key) localStorage.setItem("workbench-visitor", key) } catch { /* forbidden: nothing to do */ } }

// Save what the server sent under its name.
function saveFile(event) {
  const { file, name } = event.file ? event : event.data ?? {}
  if (!file) return
  const bytes = Uint8Array.from(atob(file), (c) => c.charCodeAt(0))
  const link = element("a", { href: URL.createObjectURL(new Blob([bytes])), download: name })
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 10000)
}

// A page of its own: language, title, ground and colour scheme of the whole document.
function paintPage(model, title) {
  if (!model.whole_page) return
  document.documentElement.lang = "en"
  document.body.querySelector(":scope > div")?.setAttribute("role", "main")
  document.documentElement.style.colorScheme = model.theme
  document.body.style.background = model.theme === "dark" ? model.dark_page : model.light_page
  document.body.style.margin = "0"
  document.title = title
}
