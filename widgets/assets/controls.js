export function render({ model }) {
  const root = element("div", { class: "knobs" })
  const knobs = new Map() // name -> {show(value), spec}
  const live = newestWins((message) => model.send_msg({ kind: "live", ...message }))
  const busy = () => root.setAttribute("aria-busy", String(live.waits() || told > model.heard)) // until the server has answered
  model.on("ack", () => { live.done(model.ack); busy() })

  const move = (name, value) => { live.push({ values: { [name]: value } }, (a, b) => ({ values: { ...a.values, ...b.values } })); busy() }
  // A knob that has just been set shows what its reader chose until the server has answered that very message.
  let told = 0
  const waits = new Map() // name -> number of the message that set it
  const settle = (name, value) => { waits.set(name, ++told); model.send_msg({ kind: "settle", values: { [name]: value }, seq: told }); busy() }
  const hold = (on) => window.dispatchEvent(new CustomEvent("wb-hold", { detail: { bench: model.bench, on } }))

  function shell(spec, ...controls) {
    const reset = element("button", { class: "reset", type: "button", title: `Back to the default: ${spec.default_text}`,
      "aria-label": `reset ${spec.label}`, onclick: () => settle(spec.name, spec.default) }, "↺")
    const head = element("div", { class: "head" },
      element("label", { for: `knob-${spec.name}`, title: spec.doc }, spec.label),
      spec.symbol ? element("span", { class: "symbol", title: "the paper's letter" }, spec.symbol) : null, reset)
    const box = element("div", { class: `knob ${spec.kind}`, "data-knob": spec.name }, head, ...controls)
    if (spec.sweep.length) sweepable(spec, box, head)
    if (spec.doc) box.append(element("p", { class: "doc" }, spec.doc))
    return { box, head, reset }
  }

  function iconButton(attributes) {
    const button = element("button", attributes)
    button.innerHTML = '<svg viewBox="0 0 18 12" width="18" height="12" aria-hidden="true"><path d="M1 11C5 11 6 2 9 2s4 6 8 4" fill="none" stroke="currentColor" stroke-width="1.6"/><circle cx="4" cy="8.5" r="1.6" fill="currentColor"/><circle cx="9" cy="2" r="1.6" fill="currentColor"/><circle cx="14" cy="6.4" r="1.6" fill="currentColor"/></svg>'
    return button
  }
  // Beside a knob: the values to sweep, ready to be changed, and the button that starts.
  function sweepable(spec, box, head) {
    const values = element("input", { type: "text", class: "values", value: spec.sweep.join(", "), spellcheck: "false", "aria-label": `values of ${spec.label} to sweep` })
    const start = () => { model.send_msg({ kind: "sweep", knob: spec.name, values: values.value }) }
    const go = element("button", { type: "button", class: "go", onclick: start, "aria-label": `sweep ${spec.label} over these values` }, spec.live ? "draw" : "run all")
    const row = element("div", { class: "sweep-row", hidden: true }, values, go)
    const open = iconButton({ type: "button", class: "sweep", "aria-expanded": "false", "aria-label": `sweep ${spec.label}`,
      title: spec.live ? "Sweep this knob: replay the run for several values and draw what it trades" : "Sweep this knob: one run for each value; the curve grows as they finish",
      onclick: () => { row.hidden = !row.hidden; open.setAttribute("aria-expanded", String(!row.hidden)); if (!row.hidden) values.focus() } })
    values.addEventListener("keydown", (event) => { if (event.key === "Enter") { event.preventDefault(); event.stopPropagation(); start() } })
    head.append(open)
    box.append(row)
  }

  // What a reader is typing stays until it is sent or left, whatever arrives from the server meanwhile.
  function typed(input, show) {
    let typing = false, latest = null
    input.addEventListener("input", () => { typing = true })
    input.addEventListener("change", () => { typing = false })
    input.addEventListener("blur", () => { if (typing) { typing = false; show(latest) } })
    return (value) => { latest = value; if (!typing) show(value) }
  }

  function range(spec) {
    const common = { min: spec.min, max: spec.max, step: spec.step }
    const slider = element("input", { type: "range", id: `knob-${spec.name}`, ...common })
    const number = element("input", { type: "number", class: "number", "aria-label": `${spec.label} as a number`, ...common })
    const tick = spec.default === null ? null
      : element("i", { class: "tick", style: `--at:${(spec.default - spec.min) / (spec.max - spec.min)}`, title: "default" })
    const auto = spec.nullable ? element("input", { type: "checkbox", "aria-label": `${spec.label}: automatic` }) : null
    const { box, head, reset } = shell(spec, element("div", { class: "track" }, slider, tick))
    head.append(number, element("span", { class: "unit" }, spec.unit || ""))
    if (auto) head.append(element("label", { class: "auto" }, auto, "auto"))
    slider.addEventListener("input", () => { number.value = slider.value; if (spec.live) move(spec.name, +slider.value) })
    slider.addEventListener("change", () => settle(spec.name, +slider.value))
    slider.addEventListener("dblclick", () => settle(spec.name, spec.default))
    slider.addEventListener("pointerdown", () => hold(true))
    slider.addEventListener("pointerup", () => hold(false))
    number.addEventListener("change", () => settle(spec.name, number.value === "" ? spec.default : +number.value))
    const showNumber = typed(number, (value) => { number.value = value })
    auto?.addEventListener("change", () => settle(spec.name, auto.checked ? null : +slider.value))
    const show = (value) => {
      const none = value === null
      if (auto) { auto.checked = none; slider.disabled = number.disabled = none }
      if (none) number.placeholder = "auto"; else slider.value = value
      showNumber(none ? "" : value)
      reset.hidden = value === spec.default
    }
    return { box, show }
  }

  function choice(spec) {
    const select = element("select", { id: `knob-${spec.name}` }, ...spec.choices.map((c) => element("option", { value: c }, c)))
    const { box, reset } = shell(spec, select)
    select.addEventListener("change", () => settle(spec.name, select.value))
    return { box, show: (value) => { select.value = value ?? "auto"; reset.hidden = value === spec.default } }
  }

  function check(spec) {
    const input = element("input", { type: "checkbox", id: `knob-${spec.name}` })
    const { box, head, reset } = shell(spec)
    head.prepend(input)
    input.addEventListener("change", () => settle(spec.name, input.checked))
    return { box, show: (value) => { input.checked = value; reset.hidden = value === spec.default } }
  }

  function written(spec) {
    const long = spec.kind === "text"
    const names = spec.choices.length ? `names-${model.bench}-${spec.name}` : null
    const input = element(long ? "textarea" : "input", {
      id: `knob-${spec.name}`, rows: long ? 3 : null, type: spec.kind === "number" ? "number" : long ? null : "text",
      placeholder: spec.nullable ? "auto" : null, list: names, spellcheck: "false", min: spec.min, max: spec.max })
    const { box, reset } = shell(spec, input)
    if (names) box.append(element("datalist", { id: names }, ...spec.choices.map((c) => element("option", { value: c }))))
    input.addEventListener("change", () => settle(spec.name, spec.kind === "number" ? +input.value : input.value))
    input.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !(long && event.shiftKey)) { event.preventDefault(); input.blur() }
    })
    const text = (value) => (value === null ? "" : Array.isArray(value) ? JSON.stringify(value) : String(value))
    return { box, show: typed(input, (value) => { input.value = text(value); reset.hidden = text(value) === text(spec.default) }) }
  }

  // One of the pictures offered, or a file of the reader's own: sent once, decoded on the server, never stored.
  function picture(spec) {
    const own = element("option", { value: "your own picture", disabled: "" }, "your own picture")
    const select = element("select", { id: `knob-${spec.name}` }, ...spec.choices.map((c) => element("option", { value: c }, c)), own)
    const file = element("input", { type: "file", accept: "image/png,image/jpeg,image/webp,image/bmp", "aria-label": `${spec.label}: your own file` })
    const { box, reset } = shell(spec, select, file)
    select.addEventListener("change", () => settle(spec.name, select.value))
    file.addEventListener("change", () => {
      const chosen = file.files[0]
      if (!chosen) return
      const reader = new FileReader()
      reader.addEventListener("load", () => { settle(spec.name, chosen.size > 8e6 ? "a file above 8 MB" : reader.result); file.value = "" })
      reader.readAsDataURL(chosen)
    })
    return { box, show: (value) => { select.value = spec.choices.includes(value) ? value : own.value; reset.hidden = value === spec.default } }
  }

  const builders = { picture, range, choice, check, text: written, line: written, number: written, list: written }
  const group = (title, hint, specs) => {
    if (!specs.length) return null
    const boxes = specs.map((spec) => {
      const knob = builders[spec.kind](spec)
      knobs.set(spec.name, { spec, show: knob.show, box: knob.box })
      return knob.box
    })
    return element("section", {}, title ? element("h2", {}, title, element("small", {}, hint)) : null, ...boxes)
  }

  const presets = element("div", { class: "presets", role: "group", "aria-label": "Presets" }, ...model.presets.map((name) =>
    element("button", { type: "button", class: "preset", onclick: () => model.send_msg({ kind: "preset", name }) }, name)))
  const run = element("button", { type: "button", class: "run", onclick: () => model.send_msg({ kind: "run" }) }, "Run again")
  const plain = model.spec.filter((s) => !s.advanced), folded = model.spec.filter((s) => s.advanced)
  root.append(...[
    group("Live", "acts while you move", plain.filter((s) => s.live)),
    group("Run", "acts when you let go", plain.filter((s) => !s.live)),
  ].filter(Boolean))
  if (folded.length) root.append(element("details", {}, element("summary", {}, "Advanced"), group("", "", folded)))
  root.append(run)
  if (model.presets.length) root.prepend(presets)
  root.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.target.type === "range" || event.target.type === "checkbox")) model.send_msg({ kind: "run" })
  })

  // The knob that has the focus is explained. A text that opens or closes moves the knobs below it, so it waits for the finger to
  // be lifted: a click whose press and release find different places is none.
  let explained = null, pressed = false
  const explain = () => knobs.forEach((knob, name) => knob.box.classList.toggle("explained", name === explained))
  const focused = (event) => { explained = event.type === "focusin" ? event.target.closest(".knob")?.dataset.knob ?? null : null; if (!pressed) explain() }
  const press = () => { pressed = true }, lift = () => setTimeout(() => { pressed = false; explain() })
  root.addEventListener("focusin", focused)
  root.addEventListener("focusout", focused)
  window.addEventListener("pointerdown", press, true)
  for (const name of ["pointerup", "pointercancel"]) window.addEventListener(name, lift, true)
  model.on("remove", () => { window.removeEventListener("pointerdown", press, true); for (const name of ["pointerup", "pointercancel"]) window.removeEventListener(name, lift, true) })

  const held = () => root.getRootNode().activeElement?.type === "range" && root.querySelector("input[type=range]:active")
  const show = () => knobs.forEach((knob, name) => {
    const input = held()
    if ((waits.get(name) ?? 0) <= model.heard && !(input && input.id === `knob-${name}`)) knob.show(model.values[name])
  })
  model.on("values", show)
  model.on("fresh", show)
  model.on("heard", () => { show(); busy() })
  show()
  return root
}
