/**
 * Pictures of the gallery: `node test/support/shots.mjs OUT [SCENE[:PANEL] …]`, all scenes if none is named.
 *
 * Environment: `GALLERY` (http://localhost:5173/gallery.html), `CHROMIUM` (/usr/bin/chromium), `SIZES`
 * (`1280x800,700x600,320x640,500x100`), `THEMES` (`light,dark`).
 */

import { mkdir, writeFile } from "node:fs/promises";
import { openBrowser } from "./browser.mjs";

const [out = "shots", ...scenes] = process.argv.slice(2);
const gallery = process.env.GALLERY ?? "http://localhost:5173/gallery.html";
const sizes = (process.env.SIZES ?? "1280x800,700x600,320x640,500x100").split(",");
const themes = (process.env.THEMES ?? "light,dark").split(",");

const browser = await openBrowser(process.env.CHROMIUM);
try {
  await mkdir(out, { recursive: true });
  const page = await browser.page();
  if (!scenes.length) {
    await page.go(gallery);
    scenes.push(...(await page.run("[...document.querySelectorAll('a')].map(a => a.dataset.shot).filter(Boolean)")));
  }
  for (const theme of themes) {
    await page.send("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: theme }] });
    for (const size of sizes) {
      const [width, height] = size.split("x").map(Number);
      await page.send("Emulation.setDeviceMetricsOverride", {
        width,
        height,
        deviceScaleFactor: 1,
        mobile: width < 400,
      });
      for (const each of scenes) {
        const [scene, panel, more] = each.split(":");
        await page.go(`${gallery}?scene=${scene}${panel ? `&panel=${panel}` : ""}${more ? `&${more}` : ""}`);
        await page.settle();
        const { data } = await page.send("Page.captureScreenshot", { format: "png" });
        await writeFile(`${out}/${each.replaceAll(/[:=]/g, "-")}-${size}-${theme}.png`, Buffer.from(data, "base64"));
      }
    }
  }
  for (const fault of page.faults) console.log(fault);
} finally {
  await browser.close();
}
