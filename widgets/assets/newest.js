// Newest wins, one in flight, and the last value always arrives. `send` gets {seq, ...}; call `done(seq)` on the answer.
function newestWins(send) {
  let seq = 0, flying = 0, next = null
  const launch = (message) => { flying = ++seq; next = null; send({ ...message, seq }) }
  return {
    push(message, merge) { flying ? (next = merge && next ? merge(next, message) : message) : launch(message) },
    done(answered) { if (answered >= flying) { flying = 0; if (next) launch(next) } },
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

const reducedMotion = () => window.matchMedia("(prefers-reduced-motion: reduce)").matches
