/** What axe-core finds in the gallery: `node test/support/axe.mjs [SCENE[:PANEL] …]`, all scenes if none is named. */

import { readFile } from "node:fs/promises";
import { openBrowser } from "./browser.mjs";

const scenes = process.argv.slice(2);
const gallery = process.env.GALLERY ?? "http://localhost:5173/gallery.html";
const axe = await readFile(new URL("../../node_modules/axe-core/axe.min.js", import.meta.url), "utf8");
const browser = await openBrowser(process.env.CHROMIUM);
let found = 0;
try {
  const page = await browser.page();
  if (!scenes.length) {
    await page.go(gallery);
    scenes.push(...(await page.run("[...document.querySelectorAll('[data-shot]')].map(a => a.dataset.shot)")));
  }
  for (const theme of ["light", "dark"])
    for (const [width, height] of [
      [1280, 800],
      [320, 640],
      [500, 100],
    ]) {
      await page.send("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: theme }] });
      await page.send("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile: false });
      for (const scene of scenes) {
        const [name, panel] = scene.split(":");
        await page.go(`${gallery}?scene=${name}${panel ? `&panel=${panel}` : ""}`);
        await page.settle();
        await page.run(axe);
        const violations = await page.run("axe.run().then(r => r.violations)");
        for (const { id, impact, nodes } of violations) {
          found++;
          console.log(`${scene} ${width}x${height} ${theme}: ${impact} ${id}: ${nodes[0].html.slice(0, 160)}`);
          console.log(`    ${nodes[0].failureSummary.split("\n").slice(1).join(" ")} (${nodes.length})`);
        }
      }
    }
} finally {
  await browser.close();
}
console.log(`${found} findings`);
