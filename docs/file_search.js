// Search from disk: a browser starts no worker from a file, so the search script runs in a hidden frame instead.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super()
      this.waiting = []
      const frame = document.createElement("iframe")
      frame.hidden = true
      frame.onload = () => {
        frame.onload = null
        const inside = frame.contentWindow
        inside.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
        const script = inside.document.createElement("script")
        script.src = address
        script.onload = () => {
          this.postMessage = data => inside.dispatchEvent(new MessageEvent("message", { data }))
          this.waiting.forEach(data => this.postMessage(data))
        }
        inside.document.body.append(script)
      }
      document.body.append(frame)
    }

    postMessage(data) {
      this.waiting.push(data)
    }
  }
}
