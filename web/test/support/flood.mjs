/** Measures the console: `node test/support/flood.mjs [LINES]`; prints the longest task while they arrive. */

import { setTimeout as sleep } from "node:timers/promises";
import { openBrowser } from "./browser.mjs";

const lines = Number(process.argv[2] ?? 100_000);
const gallery = process.env.GALLERY ?? "http://localhost:5173/gallery.html";
const browser = await openBrowser(process.env.CHROMIUM);
try {
  const page = await browser.page();
  await page.send("Emulation.setDeviceMetricsOverride", {
    width: 1280,
    height: 800,
    deviceScaleFactor: 1,
    mobile: false,
  });
  const begin = performance.now();
  await page.go(`${gallery}?scene=running&lines=${lines}`);
  let flooded = { sent: 0, longest: 0 };
  await sleep(1_000);
  await page.run("globalThis.forget()"); // what it takes to load the page is not measured here
  while (flooded.sent < lines) {
    await sleep(200);
    flooded = (await page.run("globalThis.flooded")) ?? flooded;
  }
  await sleep(500);
  const report = async (what) => {
    const { longest } = await page.run("globalThis.flooded");
    console.log(`${what}: longest task ${Math.round(longest)} ms`);
    await page.run("globalThis.flooded.longest = 0; globalThis.forget?.()");
  };
  console.log(`${lines} lines in ${Math.round(performance.now() - begin)} ms`);
  await report("arriving");
  console.log(await page.run("document.querySelector('.log-port').innerText.split('\\n').at(-1).slice(0, 40)"));
  await page.run(`(async () => {
    const port = document.querySelector(".log-port");
    for (let i = 0; i <= 50; i++) { port.scrollTop = port.scrollHeight * i / 50; await new Promise(requestAnimationFrame); }
  })()`);
  await report("scrolling");
  await page.run(`document.querySelector("[aria-label='Search the log']").click()`);
  await sleep(200);
  for (const key of "epoch") await page.key(key);
  await sleep(1500);
  console.log(await page.run("document.querySelector('.console-count').textContent"));
  await report("searching");
  await page.run(`document.querySelector("[aria-label='Wrap long lines']").click()`);
  await sleep(500);
  await report("without wrapping");
  await page.run(`document.querySelector("[aria-label^='Split']").click()`);
  await sleep(500);
  await report("split");
  for (const fault of page.faults) console.log(fault);
} finally {
  await browser.close();
}
