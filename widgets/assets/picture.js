// Draws figure JSON with the plotly.js that belongs to the Python package that made it (Panel bundles an older one).
let plotlyReady = null
function plotly(model) {
  plotlyReady ??= new Promise((resolve, reject) => {
    const load = (url) => document.head.append(element("script", { src: url, onload: () => resolve(window.Plotly), onerror: reject }))
    if (model.plotly_url) return load(model.plotly_url)
    if (window.workbenchPlotly) return window.workbenchPlotly().then(resolve, reject) // stands in the notebook: no kernel needed
    model.on("msg:custom", (message) => {
      const source = message.plotly ?? message.data?.plotly
      if (source) load(URL.createObjectURL(new Blob([source], { type: "text/javascript" })))
    })
    model.send_msg({ kind: "plotly" })
  })
  return plotlyReady
}

// Pictures take turns: the next is drawn when the one before it has been painted, so that a slow one never hides the hero, which
// always goes first.
const waiting = []
let busy = false
function turn(lead) {
  return new Promise((go) => { lead ? waiting.unshift(go) : waiting.push(go); if (!busy) next() })
}
function next() {
  busy = waiting.length > 0
  if (busy) waiting.shift()()
}
const painted = () => new Promise((done) => {
  const timer = setTimeout(done, 100) // a hidden tab paints nothing and must not wait for it
  requestAnimationFrame(() => {
    const channel = new MessageChannel()
    channel.port1.onmessage = () => { clearTimeout(timer); done() }
    channel.port2.postMessage(0)
  })
})

// Pixels that a picture needs (unless its layout says less in `meta.least`). In a narrower frame it keeps them and is moved
// sideways, as a wide table would be.
const LEAST = 540

export function render({ model }) {
  const title = element("h2", { class: "title" }), plot = element("div", { class: "plot" })
  const caption = element("figcaption"), empty = element("p", { class: "empty" })
  const twin = element("pre", { class: "twin", tabindex: 0 }), reading = element("p", { class: "reading" })
  const words = element("details", { class: "words", ontoggle: () => words.open && model.send_msg({ kind: "words" }) },
    element("summary", {}, "In words"), reading, twin)
  const save = (format) => element("button", { type: "button", class: "save", title: `save this picture as ${format.toUpperCase()}`, onclick: () => download(format) }, format.toUpperCase())
  const close = element("button", { type: "button", class: "close", "aria-label": "take this picture off the page", onclick: () => model.send_msg({ kind: "close" }) }, "✕")
  const tools = element("div", { class: "picture-tools" }, save("png"), save("svg"), model.closable ? close : null)
  const frame = element("div", { class: "frame", role: "group" }, plot)
  const root = element("figure", { class: "picture" }, element("div", { class: "picture-head" }, title, tools), caption, frame, empty, words)
  let drawn = "", edit = 0, queue = Promise.resolve()

  const clicked = ({ points: [point] }) => point && model.send_msg({ kind: "click",
    x: plainValue(point.x), y: plainValue(point.y), custom: point.customdata ?? pixel(point), name: point.data?.name ?? "", index: point.pointIndex })
  // A map says in its `meta` how its pixels are counted, instead of carrying a number for each (`map_panels.clicks`).
  const pixel = ({ data, x, y, pointIndex }) => (data?.meta?.columns
    ? (data.meta.row ?? y) * data.meta.columns + x + (data.meta.layer ? (1 + pointIndex[0]) * data.meta.layer : 0) : null)
  // A picture with levels of detail gets the next level from the server: its layout says so in `meta.zoom`.
  function zoomed(change) {
    if (!plot.layout?.meta?.zoom) return
    const range = (axis) => change[`${axis}.range`] ?? (`${axis}.range[0]` in change ? [change[`${axis}.range[0]`], change[`${axis}.range[1]`]] : null)
    const x = range("xaxis"), y = range("yaxis")
    if (x || y) model.send_msg({ kind: "zoom", x: x ?? plot.layout.xaxis.range, y: y ?? plot.layout.yaxis.range })
    else if (change["xaxis.autorange"] || change["yaxis.autorange"]) model.send_msg({ kind: "zoom", x: null, y: null })
  }
  // A label that may be dragged (`meta.drag`): where it was let go is for the server, which says what that means in knobs.
  function dragged(change) {
    if (!plot.layout?.meta?.drag) return
    const key = Object.keys(change).find((name) => /^annotations\[\d+\]\.x$/.test(name))
    const label = key && plot.layout.annotations[Number(key.match(/\d+/)[0])]
    if (label?.name && typeof change[key] === "number") model.send_msg({ kind: "drag", name: label.name, x: change[key] })
    else if (key) again()
  }
  const plainValue = (value) => (typeof value === "number" || typeof value === "string" ? value : null)

  // What the reader sees, with its question above it: a picture on its own must say what it is.
  async function download(format) {
    if (!plot.on) return
    const figure = JSON.parse(model.figure), { width, height } = plot.getBoundingClientRect()
    const margin = { ...figure.layout.margin, t: (figure.layout.margin?.t ?? 12) + 34 }
    const heading = { text: model.title.replaceAll("&", "&amp;").replaceAll("<", "&lt;"), x: 0.01, xanchor: "left", y: 0.985, yanchor: "top", font: { size: 16 } }
    const layout = { ...plot.layout, margin, title: heading, width, height: height + 34 }
    const name = (model.title || "picture").toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "")
    const options = { format, width, height: height + 34, scale: format === "png" ? 2 : 1 }
    const source = await window.Plotly.toImage({ data: plot.data, layout }, options)
    const link = element("a", { href: source, download: `${name}.${format}` })
    link.click()
  }

  async function draw() {
    const source = model.figure
    if (!source || source === drawn) return
    const Plotly = await plotly(model)
    await turn(model.lead)
    const first = !drawn
    try { if (source === model.figure) await put(Plotly, source, model.drawing) } finally { painted().then(next) }
    // The hero is told of every time: the server computes what else a move changes when the hero stands, not while it is drawn.
    if (first || model.lead) painted().then(() => model.send_msg({ kind: "painted" }))
  }
  async function put(Plotly, source, number) {
    const figure = JSON.parse(source)
    const layout = { ...figure.layout, autosize: true }
    delete layout.width
    plot.style.minHeight = `${layout.height ?? 360}px`
    const first = !plot.on
    const drag = Boolean(layout.meta?.drag)
    if (drag) layout.editrevision = edit++ // a label goes where the new figure says, not where it was dropped
    const least = `${layout.meta?.least ?? LEAST}px`
    if (plot.style.minWidth !== least) { plot.style.minWidth = least; framed() } // measured once, not while a slider waits
    if (frame.hasAttribute("tabindex") && !layout.meta?.zoom) layout.dragmode = false // a finger moves the frame
    const edits = drag ? { edits: { annotationPosition: true } } : {}
    await Plotly.react(plot, figure.data, layout, { displayModeBar: false, responsive: false, doubleClick: "reset", ...edits })
    if (first) {
      plot.on("plotly_click", clicked)
      plot.on("plotly_relayout", zoomed)
      plot.on("plotly_relayout", dragged)
    }
    drawn = source
    root.dataset.drawn = number
    busy()
  }
  // Until what it shows is what the page knows: for readers who hear the page, and for tests that wait for it.
  const busy = () => root.setAttribute("aria-busy", String(model.stale || Boolean(model.figure && model.figure !== drawn)))

  function words_() {
    title.textContent = model.title
    title.hidden = !model.title
    caption.textContent = model.caption
    caption.hidden = !model.caption
    reading.textContent = model.reading
    twin.textContent = model.twin
    words.hidden = !model.figure
    tools.hidden = !model.figure && !model.closable
    empty.textContent = model.empty
    empty.hidden = !model.empty
    plot.hidden = !model.figure
  }
  const dim = () => root.classList.toggle("dimmed", model.dimmed)
  // One message carries several properties: draw once after all of them are in.
  const later = () => { queue = queue.then(draw).catch((error) => console.error(error)) }
  const again = () => { drawn = ""; later() }
  model.on("figure", () => { words_(); busy(); later() })
  model.on("stale", busy)
  model.on("again", again)
  for (const name of ["title", "caption", "reading", "twin", "empty"]) model.on(name, words_)
  model.on("dimmed", dim)
  window.addEventListener("wb-hold", ({ detail }) => {
    if (detail.bench === model.bench) root.classList.toggle("held", detail.on && model.reacts)
  })
  function framed() {
    if (frame.scrollWidth > frame.clientWidth) { frame.tabIndex = 0; frame.setAttribute("aria-label", `${model.title || "picture"} (moves sideways)`) }
    else { frame.removeAttribute("tabindex"); frame.removeAttribute("aria-label") }
  }
  let width = 0
  const sized = new ResizeObserver(([entry]) => {
    const now = Math.round(entry.contentRect.width)
    if (now && now !== width) { width = now; framed(); if (plot.on) window.Plotly.Plots.resize(plot); else later() }
  })
  sized.observe(root)
  model.on("remove", () => { sized.disconnect(); if (plot.on) window.Plotly.purge(plot) })
  words_(); dim(); busy(); later()
  return root
}
