"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const cards = [...document.querySelectorAll("#cards > li")];
const dark = matchMedia("(prefers-color-scheme: dark)");
const coasts = new Path2D(data.land);
const ramps = { // colours from nothing to most; no photo; coast
  light: [[[237, 243, 248], [79, 155, 211], [8, 48, 107]], [205, 205, 205], "#444"],
  dark: [[[28, 40, 54], [40, 128, 190], [255, 221, 110]], [72, 72, 72], "#c8c8c8"],
};

function colourOf(stops, share) {
  const [low, high] = share < 0.5 ? [stops[0], stops[1]] : [stops[1], stops[2]];
  const part = share < 0.5 ? 2 * share : 2 * share - 1;
  return low.map((value, channel) => value + part * (high[channel] - value));
}

/** Draw the map of a feature; what lies beyond the globe stays transparent. */
function draw(canvas) {
  const [stops, unknown, coast] = ramps[dark.matches ? "dark" : "light"];
  const bytes = Uint8Array.from(atob(data.maps[canvas.dataset.feature]), (one) => one.charCodeAt(0));
  canvas.width = data.width;
  canvas.height = data.height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(data.width, data.height);
  let pixel = 0;
  for (let run = 0; run < data.runs.length; run += 2) {
    const cell = data.runs[run];
    const end = pixel + data.runs[run + 1];
    const colour = cell < 0 ? unknown : colourOf(stops, bytes[cell] / 255);
    for (; pixel < end; pixel++) {
      if (cell > -2) image.data.set([...colour, 255], 4 * pixel);
    }
  }
  context.putImageData(image, 0, 0);
  context.strokeStyle = coast;
  context.stroke(coasts);
}

/** Put the photos with most of a feature into its card, when it is opened first. */
function fill(card) {
  const place = card.querySelector(".photos");
  if (place.childElementCount) return;
  for (const [photo, code] of data.top[card.dataset.number]) {
    const image = new Image();
    image.src = data.photos[photo];
    image.alt = `Photo taken at ${data.places[photo]}`;
    const figure = document.createElement("figure");
    const caption = document.createElement("figcaption");
    caption.textContent = `${data.places[photo]}, code ${code.toFixed(1)}`;
    figure.append(image, caption);
    place.append(figure);
  }
}

const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting || !entry.target.clientWidth) continue;
    draw(entry.target);
    seen.unobserve(entry.target);
  }
}, { rootMargin: "300px" });

const search = document.getElementById("search");
const order = document.getElementById("order");
const only = document.getElementById("only");

/** Show the cards that are asked for, in the order that is asked for. */
function arrange() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const [key, sign] = order.value.split(" ");
  const value = (card) => (card.dataset[key] === "nan" ? Infinity : sign * card.dataset[key]);
  const sorted = [...cards].sort((one, other) => value(one) - value(other) || one.dataset.number - other.dataset.number);
  let shown = 0;
  for (const card of sorted) {
    const found = words.every((word) => /^\d+$/.test(word) ? card.dataset.number === word : card.dataset.words.includes(word));
    card.hidden = !found || (only.checked && !card.dataset.concentrated);
    shown += !card.hidden;
  }
  document.getElementById("cards").append(...sorted);
  document.getElementById("count").textContent = shown ? `${shown} of ${cards.length} features` : "No feature is so; try a country, or fewer words";
}

function open() {
  const card = document.getElementById(location.hash.slice(1));
  if (!card || !cards.includes(card)) return;
  card.querySelector("details").open = true;
  card.scrollIntoView();
}

for (const card of cards) card.querySelector("details").addEventListener("toggle", () => fill(card));
for (const canvas of document.querySelectorAll("canvas")) seen.observe(canvas);
for (const control of [search, order, only]) control.addEventListener("input", arrange);
dark.addEventListener("change", () => document.querySelectorAll("canvas").forEach((canvas) => seen.observe(canvas)));
addEventListener("hashchange", open);
arrange();
open();
