// Show how many events have arrived, and which steps of the set-up they complete.
const finish = name => {
  const step = element.querySelector(`[data-step=${name}]`);
  if (step) step.className = "done";
};
const show = () => {
  const steps = [...element.querySelectorAll(".webhooks-steps li")];
  const done = steps.filter(step => step.className === "done").length;
  element.querySelector("summary b").textContent = `${done} of ${steps.length} done`;
  element.querySelector("details").open = done < steps.length;
};
fetch("arrivals").then(answer => answer.json()).then(({ count, last, from_hub }) => {
  if (!last) return;
  const when = new Date(last).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  element.querySelector("[role=status]").textContent = `${count} ${count === 1 ? "event has" : "events have"} arrived, the last one on ${when}.`;
  finish("test");
  if (from_hub) finish("webhooks");
}).catch(() => {}).finally(show);
