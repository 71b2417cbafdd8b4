// Search runs in a worker, which browsers start for no page that was opened from a folder (file:). There a hidden frame
// takes its place: the script runs in it, and messages go by the window's.
(() => {
  if (location.protocol !== "file:") return;

  // What a worker's script expects to be there. Its text is written into the frame.
  function begin() {
    window.postMessage = (data) => parent.postMessage(data, "*");
    window.importScripts = (...urls) =>
      urls.reduce(
        (before, url) =>
          before.then(
            () =>
              new Promise((loaded) => {
                const script = document.createElement("script");
                script.src = url;
                script.onload = loaded;
                document.body.appendChild(script);
              }),
          ),
        Promise.resolve(),
      );
  }

  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.appendChild(this.frame);
      const inner = this.frame.contentWindow;
      inner.document.open();
      inner.document.write(`<body><script>(${begin})()<\/script><script src="${url}"><\/script></body>`);
      inner.document.close();
      this.ready = new Promise((loaded) => (inner.onload = loaded));
      this.received = (event) => {
        if (event.source !== inner) return;
        const message = new MessageEvent("message", { data: event.data });
        this.dispatchEvent(message);
        if (this.onmessage) this.onmessage(message);
      };
      addEventListener("message", this.received);
    }

    postMessage(data) {
      const copy = structuredClone(data);
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data: copy })));
    }

    terminate() {
      removeEventListener("message", this.received);
      this.frame.remove();
    }
  };
})();
