export function render({ model }) {
  const steps = newestWins((message) => model.send_msg({ kind: "step", ...message }))
  model.on("ack", () => { steps.done(model.ack); follow() })
  let timer = null
  const go = (step) => {
    const to = Math.max(0, Math.min(model.count - 1, step))
    if (to !== shown) { shown = to; show(); steps.push({ step: to }); busy() }
    return to
  }
  const stop = () => { clearInterval(timer); timer = null; play.textContent = "▶"; play.title = "play (space)" }
  const toggle = () => {
    if (timer) return stop()
    if (shown >= model.count - 1) go(0)
    play.textContent = "❚❚"; play.title = "pause (space)"
    timer = setInterval(() => { if (go(shown + 1) >= model.count - 1) stop() }, 700)
  }
  const button = (text, title, onclick) => element("button", { type: "button", title, "aria-label": title, onclick }, text)
  const play = button("▶", "play (space)", toggle)
  const slider = element("input", { type: "range", min: 0, step: 1, "aria-label": "step", oninput: () => go(+slider.value) })
  const label = element("span", { class: "where", "aria-live": "polite" })
  const root = element("div", { class: "steps", tabindex: 0, role: "group", "aria-label": "steps of the run" },
    button("|◂", "first step (Home)", () => go(0)), button("◂", "one step back (left arrow)", () => go(shown - 1)), play,
    button("▸", "one step on (right arrow)", () => go(shown + 1)), button("▸|", "last step (End)", () => go(model.count - 1)), slider, label)

  let shown = model.step
  function show() {
    slider.max = Math.max(0, model.count - 1)
    slider.value = shown
    label.textContent = model.count ? `${model.noun} ${shown} of ${model.count - 1}` : ""
    root.hidden = model.count < 2
    root.dataset.step = shown
  }
  const moves = { ArrowLeft: () => go(shown - 1), ArrowRight: () => go(shown + 1), Home: () => go(0), End: () => go(model.count - 1), " ": toggle }
  const typing = (target) => target && /^(INPUT|TEXTAREA|SELECT|BUTTON|SUMMARY)$/.test(target.tagName)
  const pressed = (event) => {
    const target = event.composedPath()[0]
    if (!moves[event.key] || event.ctrlKey || event.metaKey || event.altKey || model.count < 2) return
    if (typing(target) && !root.contains(target)) return
    if (target.tagName === "BUTTON" && event.key === " ") return
    event.preventDefault()
    moves[event.key]()
  }
  // On a page of its own the arrows always step; in a notebook only while the scrubber has the focus.
  const ears = model.whole_page ? window : root
  ears.addEventListener("keydown", pressed)
  model.on("remove", () => { stop(); ears.removeEventListener("keydown", pressed) })
  // While a step is on its way to the server, the reader's own stays on show: what comes meanwhile answers an older one.
  function follow() { busy(); if (!steps.waits()) { shown = model.step; show() } }
  const busy = () => root.setAttribute("aria-busy", String(steps.waits()))
  model.on("step", follow)
  model.on("count", () => { shown = model.step; show() })
  show()
  return root
}
