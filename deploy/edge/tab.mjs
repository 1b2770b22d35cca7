// The API in a browser tab: a static site, for any host and below any path.
//
//   node tab.mjs --out DIR           needs dist/bundle.zip (node build.mjs) and the page (asman/page)
//
// Below DIR/app/ is what the service worker answers for; DIR itself has the page that says what this is.

import { createHash } from "node:crypto";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, relative, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { gzipSync } from "node:zlib";

const HERE = fileURLToPath(new URL(".", import.meta.url));
const { values: flags } = parseArgs({
  options: {
    out: { type: "string", default: join(HERE, "dist", "tab") },
    bundle: { type: "string", default: join(HERE, "dist", "bundle.zip") },
    page: { type: "string", default: join(HERE, "..", "..", "asman", "page") },
  },
});

const PYODIDE = ["pyodide.mjs", "pyodide.asm.mjs", "pyodide.asm.wasm", "python_stdlib.zip", "pyodide-lock.json"];
const LEFT_OUT_OF_PAGE = /\.(br|gz)$|^index\.html$|^sources\.sha256$/; // a host compresses what it sends

/** Modules get the ending that every host knows the type of. */
function script(path) {
  return readFileSync(path, "utf8").replaceAll(/(from "\.\/(?!pyodide)[\w-]+)\.mjs"/g, '$1.js"');
}

function below(folder) {
  const files = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  return files.map((entry) => relative(folder, join(entry.parentPath, entry.name)).split(sep).join("/")).sort();
}

const mib = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;

function make() {
  const { out, bundle, page } = flags;
  if (!existsSync(bundle)) throw new Error(`there is no bundle ${bundle}; make it with: node build.mjs`);
  if (!existsSync(join(page, "index.html")))
    throw new Error(`there is no page in ${page}; make it: npm run build in web/`);
  const app = join(out, "app");
  const put = (name, data) => {
    const path = join(out, name);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, data);
  };
  const own = (name) => join(HERE, "tab", name);
  rmSync(app, { recursive: true, force: true });

  // Of the page everything but its HTML, which is told to load page.js first and below which path it is.
  for (const name of below(page)) if (!LEFT_OUT_OF_PAGE.test(name)) put(`app/${name}`, readFileSync(join(page, name)));
  const html = readFileSync(join(page, "index.html"), "utf8");
  const first = html.indexOf('<script type="module"');
  if (first < 0 || !html.includes('<base href="/"'))
    throw new Error(`${page}/index.html is not the page that is known here`);
  const ours = ["page", "note"].map((name) => `<script type="module" src="./tab/${name}.js"></script>\n    `).join("");
  const head = html.replace("</head>", '  <link rel="stylesheet" href="./tab/note.css">\n  </head>');
  put("app/tab/page.html", head.slice(0, first) + ours + head.slice(first));

  for (const name of ["alive", "keeping", "socket", "saving", "page", "note", "server", "hand"])
    put(`app/tab/${name}.js`, script(own(`${name}.mjs`)));
  for (const name of ["bundle", "lines"]) put(`app/tab/${name}.js`, script(join(HERE, "src", `${name}.mjs`)));
  for (const name of ["hand.html", "start.css", "note.css"]) put(`app/tab/${name}`, readFileSync(own(name)));
  put("app/tab/bundle.zip", readFileSync(bundle));
  for (const name of PYODIDE) {
    cpSync(fileURLToPath(new URL(name, import.meta.resolve("pyodide"))), join(app, "tab", "pyodide", name));
  }

  const files = {};
  let bytes = 0;
  let gzipped = 0;
  const all = createHash("sha256");
  for (const name of below(app)) {
    const data = readFileSync(join(app, name));
    files[name] = createHash("sha256").update(data).digest("base64");
    all.update(`${name} ${files[name]}\n`);
    bytes += data.length;
    gzipped += gzipSync(data, { level: 9 }).length;
  }
  const build = { version: all.digest("hex").slice(0, 16), bytes, files };
  put("app/sw.js", `const BUILD = ${JSON.stringify(build)};\n${readFileSync(own("sw.js"), "utf8")}`);

  const size = `${mib(bytes)}, ${mib(gzipped)} from a host that compresses`;
  const words = (name) => readFileSync(own(name), "utf8").replace("<!--SIZE-->", size);
  put("app/index.html", words("app.html"));
  put("index.html", words("index.html"));
  put("start.css", readFileSync(own("start.css")));
  put("start.js", script(own("start.mjs")));
  return { out, build, gzipped };
}

try {
  const { out, build, gzipped } = make();
  console.log(`${out}: ${Object.keys(build.files).length} files, ${mib(build.bytes)}, gzipped ${mib(gzipped)}`);
} catch (error) {
  console.error(`Error: ${error.message}`);
  process.exit(2);
}
