import { defineConfig } from "vitest/config";
import { compressed } from "./compress.ts";

/**
 * The page is built into the Python package: `asman serve` serves what lies in `asman/page`. Beside it lies the client as
 * one module of a fixed name, for pages of others: `import { Client } from "https://SERVER/client.js"`.
 */
export default defineConfig({
  base: "./",
  plugins: [compressed()],
  build: {
    outDir: "../asman/page",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0, // the page's policy allows no data: fonts or scripts
    modulePreload: { polyfill: false },
    sourcemap: false,
    rolldownOptions: {
      input: { index: "index.html", client: "src/index.ts" },
      preserveEntrySignatures: "allow-extension",
      output: {
        entryFileNames: ({ name }) => (name === "client" ? "client.js" : "assets/[name]-[hash].js"),
      },
    },
  },
  server: {
    proxy: Object.fromEntries(
      ["/q", "/j", "/f", "/healthz", "/readyz", "/openapi.json", "/metaframe.json"].map((path) => [
        path,
        { target: process.env.ASMAN_SERVER ?? "http://localhost:8000", ws: true },
      ]),
    ),
  },
  test: {
    include: ["test/**/*.test.{ts,tsx}"],
    environment: "node", // tests that need a document say so in their first line
  },
});
