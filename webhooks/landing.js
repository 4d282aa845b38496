// Says what has arrived, and hands on the colours that were chosen with Gradio's own switch.
const said = element.querySelector(".webhooks-arrivals span");
const link = element.querySelector("a");
const theme = new URLSearchParams(location.search).get("__theme");
if (link && theme) link.search = new URLSearchParams({ __theme: theme });
fetch("arrivals").then(answer => answer.json()).then(({ count, last }) => {
  if (!last) return;
  const when = new Date(last).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  said.textContent = `${count} ${count === 1 ? "event has" : "events have"} arrived, the last one on ${when}.`;
}).catch(() => {});
