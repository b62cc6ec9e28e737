// Names for screen readers that gradio's components lack, or that differ from what they show.
(() => {
  const mend = () => {
    for (const node of document.querySelectorAll(".empty[aria-label]:not([role])")) node.setAttribute("role", "img");
    for (const node of document.querySelectorAll("button.upload-container[aria-label]")) node.removeAttribute("aria-label");
    for (const node of document.querySelectorAll("button.playback")) {
      const label = `${node.textContent.trim()} playback speed`;
      if (node.getAttribute("aria-label") !== label) node.setAttribute("aria-label", label);
    }
    for (const node of document.querySelectorAll(".cm-scroller[tabindex='-1']")) node.setAttribute("tabindex", "0");
    for (const node of document.querySelectorAll("button input[type=file]")) node.setAttribute("tabindex", "-1");
  };
  const start = () => new MutationObserver(mend).observe(document.body, { childList: true, subtree: true });
  if (document.body) start();
  else document.addEventListener("DOMContentLoaded", start);
})();
