"use strict";
const { runs } = JSON.parse(document.getElementById("data").textContent);
const said = document.getElementById("said");
const hue = (group) => `hsl(${(group * 137.508) % 360} 75% 55% / .55)`;  // the golden angle: neighbours differ
const clock = (s) => `${String(Math.floor(s / 60)).padStart(2, "0")}:${(s % 60).toFixed(1).padStart(4, "0")}`;
const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;
const WORDS = { k: "kept", m: "merged", d: "dropped" };

function made(tag, parent, text, cls) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (cls) node.className = cls;
  if (parent) parent.append(node);
  return node;
}
const where = (step) => (step.at < 0 ? "before the first layer" : `after layer ${step.at}`);
const stateOf = (position, step, i) => (step < 0 ? "k" : position.steps[step].state[i]);
const timeOf = (medium, at) => (medium.seconds ? `${clock(medium.seconds[at][0])} to ${clock(medium.seconds[at][1])}` : `position ${at + 1}`);

function draw(view, step) {
  const { canvas, image, medium, position } = view, [, rows, columns] = medium.grid, pen = canvas.getContext("2d");
  const w = canvas.width / columns, h = canvas.height / rows;
  pen.drawImage(image, 0, 0, canvas.width, canvas.height);
  if (step < 0) return;
  position.cells.forEach((cell, i) => {
    if (cell < 0) return;
    const x = (cell % columns) * w, y = Math.floor(cell / columns) * h, state = stateOf(position, step, i);
    if (state === "d") { pen.fillStyle = "rgb(12 13 15 / .7)"; pen.fillRect(x, y, w, h); }
    if (state === "m") { pen.fillStyle = hue(position.steps[step].group[i]); pen.fillRect(x, y, w, h); }
    if (state === "k") { pen.strokeStyle = "#ffb031"; pen.lineWidth = Math.max(2, w / 22); pen.strokeRect(x + pen.lineWidth / 2, y + pen.lineWidth / 2, w - pen.lineWidth, h - pen.lineWidth); }
  });
  if (view.cell !== undefined) {
    pen.strokeStyle = "#fff"; pen.lineWidth = 3;
    pen.strokeRect((view.cell % columns) * w + 1.5, Math.floor(view.cell / columns) * h + 1.5, w - 3, h - 3);
  }
}

function tell(run, view, step) {
  const { medium, position, cell } = view, columns = medium.grid[2], i = position.cells.indexOf(cell);
  if (i < 0) return;
  const parts = [timeOf(medium, position.at), `row ${Math.floor(cell / columns) + 1}, column ${(cell % columns) + 1}`];
  run.steps.slice(0, step + 1).forEach((each, n) => {
    const own = position.steps[n], state = own.state[i];
    if (n > 0 && position.steps[n - 1].state[i] === "d") return;
    const group = state === "m" ? ` into a group of ${own.size[i]} tokens` : "";
    const score = own.score && own.score[i] !== null ? `, attention ${percent(Math.exp(own.score[i]))}` : "";
    parts.push(`${each.name} (${where(each)}): ${WORDS[state]}${group}${score}`);
  });
  said.textContent = parts.join(" · ");
}

function show(run, box) {
  let step = run.steps.length - 1;
  const views = [], strips = [];
  if (run.title) made("p", box, run.title, "title");
  made("h1", box, run.question || "Which tokens were kept");
  if (run.answer) made("b", made("p", box, undefined, "answer"), run.answer);
  const steps = made("fieldset", box);
  made("legend", steps, "Tokens after each step");
  const name = `step${Math.random()}`;
  [{ name: "all", left: run.tokens }, ...run.steps].forEach((each, n) => {
    const label = made("label", steps), input = made("input", label);
    Object.assign(input, { type: "radio", name, checked: n - 1 === step });
    made("span", label, `${each.name}: ${each.left}${n ? ` (${percent(each.left / run.tokens)})` : ""}`);
    input.addEventListener("change", () => { step = n - 1; redraw(); });
  });
  const key = made("ul", box, undefined, "key");
  [["k", "kept"], ["m", "merged: one colour a group"], ["d", "dropped"]].forEach(([state, text]) => {
    const item = made("li", key); made("i", item, "", state); item.append(text);
  });
  run.media.forEach((medium) => {
    made("h2", box, medium.name.split(/[\\/]/).pop());
    if (medium.grid[0] > 1) {
      const strip = made("div", box, undefined, "strip");
      strip.setAttribute("role", "img");
      for (let at = 0; at < medium.grid[0]; at++) made("div", strip);
      strips.push([strip, medium]);
      const times = made("div", box, undefined, "times");
      made("span", times, medium.seconds ? clock(medium.seconds[0][0]) : "first");
      made("span", times, "share of the tokens that is left");
      made("span", times, medium.seconds ? clock(medium.seconds.at(-1)[1]) : "last");
    }
    if (medium.positions.length < medium.grid[0]) made("p", box, `${medium.positions.length} of ${medium.grid[0]} temporal positions are shown, evenly chosen.`, "quiet");
    if (!medium.placed) made("p", box, "The model crops, pads or tiles this: cells are drawn on the whole frame, and their place is rough.", "quiet");
    if (medium.positions.some((each) => !each.readable)) made("p", box, "The frames could not be read again.", "quiet");
    const frames = made("div", box, undefined, "frames");
    medium.positions.forEach((position) => {
      const figure = made("figure", frames), canvas = made("canvas", figure), caption = made("figcaption", figure);
      const view = { canvas, medium, position, image: new Image(), caption };
      canvas.width = 640; canvas.height = Math.max(1, Math.round((640 * medium.size[1]) / medium.size[0]));
      canvas.tabIndex = 0;
      view.image.addEventListener("load", () => draw(view, step));
      view.image.src = position.image;
      const at = (cell) => { view.cell = cell; draw(view, step); tell(run, view, step); };
      canvas.addEventListener("pointermove", (event) => {
        const [, rows, columns] = medium.grid, box = canvas.getBoundingClientRect();
        const column = Math.floor(((event.clientX - box.left) / box.width) * columns), row = Math.floor(((event.clientY - box.top) / box.height) * rows);
        at(Math.min(rows - 1, Math.max(0, row)) * columns + Math.min(columns - 1, Math.max(0, column)));
      });
      const leave = () => { view.cell = undefined; draw(view, step); said.textContent = ""; };
      canvas.addEventListener("pointerleave", leave);
      canvas.addEventListener("focus", () => at(view.cell ?? 0));
      canvas.addEventListener("blur", leave);
      canvas.addEventListener("keydown", (event) => {
        const [, rows, columns] = medium.grid, cell = view.cell ?? 0;
        const moved = { ArrowLeft: cell % columns ? -1 : 0, ArrowRight: (cell + 1) % columns ? 1 : 0, ArrowUp: cell >= columns ? -columns : 0, ArrowDown: cell < (rows - 1) * columns ? columns : 0 }[event.key];
        if (moved === undefined) return;
        event.preventDefault();
        at(cell + moved);
      });
      views.push(view);
    });
  });
  function redraw() {
    views.forEach((view) => {
      const { medium, position, caption, canvas } = view;
      const left = position.cells.filter((_, i) => stateOf(position, step, i) !== "d").length;
      caption.textContent = "";
      made("span", caption, timeOf(medium, position.at)); made("span", caption, `${left} of ${position.cells.length}`);
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `${timeOf(medium, position.at)}: ${left} of ${position.cells.length} tokens are left. Arrow keys move over the cells.`);
      draw(view, step);
    });
    strips.forEach(([strip, medium]) => {
      const shares = step < 0 ? medium.shares.length ? medium.shares[0].map(() => 1) : [] : medium.shares[step];
      const most = Math.max(...shares, 1e-9), least = Math.min(...shares);
      [...strip.children].forEach((bar, at) => { bar.style.height = `${(100 * (shares[at] ?? 1)) / most}%`; bar.title = `${timeOf(medium, at)}: ${percent(shares[at] ?? 1)}`; });
      strip.nextSibling.children[1].textContent = `share of the tokens that is left, up to ${percent(most)}`;
      strip.setAttribute("aria-label", `Share of the tokens left over time: from ${percent(least)} to ${percent(most)}`);
    });
  }
  redraw();
}

const main = document.getElementById("runs");
main.classList.toggle("two", runs.length > 1);
runs.forEach((run) => show(run, made("section", main)));
