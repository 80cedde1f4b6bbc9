"use strict";
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
const byId = name => document.getElementById(name);
const clips = [...document.querySelectorAll("#clips video")];
const slider = byId("round"), said = byId("round-said"), pause = byId("pause"), slow = byId("slow");
const remembered = window.sessionStorage;
const key = "afd:" + location.pathname;
let plays = !still, rate = 1;

function apply() {
  for (const clip of clips) {
    clip.playbackRate = rate;
    if (plays) clip.play().catch(() => {}); else clip.pause();
  }
  pause.textContent = plays ? "Pause" : "Play";
  slow.setAttribute("aria-pressed", String(rate < 1));
}
function choose(index) {
  const round = rounds[index];
  said.textContent = round.said;
  slider.setAttribute("aria-valuetext", "after " + round.label);
  clips.forEach((clip, place) => {
    const file = round.files[place];
    clip.parentElement.hidden = !file;
    if (file && clip.getAttribute("src") !== file) { clip.setAttribute("src", file); clip.load(); }
  });
  for (const chart of document.querySelectorAll("svg[data-x]")) {
    const at = chart.querySelector(".at");
    const x = Number(chart.dataset.x) + round.index * Number(chart.dataset.step);
    at.setAttribute("x1", x); at.setAttribute("x2", x); at.classList.add("on");
  }
  apply();
}
if (slider) {
  const last = Number(slider.max), kept = remembered.getItem(key);
  if (kept !== null && Number(kept) < last) slider.value = kept;
  slider.addEventListener("input", () => {
    const value = Number(slider.value);
    if (value === last) remembered.removeItem(key); else remembered.setItem(key, value);
    choose(value);
  });
  pause.addEventListener("click", () => { plays = !plays; apply(); });
  slow.addEventListener("click", () => { rate = rate < 1 ? 1 : 0.4; apply(); });
  choose(Number(slider.value));
}
const follow = byId("follow");
if (follow) {
  let number = 0;
  setInterval(() => {
    if (!follow.checked || document.hidden) return;
    const stamp = document.createElement("script");
    stamp.src = "page/stamp.js?" + Date.now() + "-" + number++;
    stamp.onload = () => { stamp.remove(); if (window.afdStamp !== follow.dataset.stamp) location.reload(); };
    stamp.onerror = () => stamp.remove();
    document.head.append(stamp);
  }, 4000);
}
