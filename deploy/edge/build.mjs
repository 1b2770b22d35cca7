// The bundle: asman and what it needs, as one zip of compiled Python, in dist/; and both forms of the Worker, in
// dist/worker/ (modules) and dist/native/ (for Cloudflare's own Python).
//
//   node build.mjs                   fetches wheels with pip (PYTHON=... names another Python)
//   node build.mjs --wheels DIR      takes them from a folder
//
// Each wheel is one line of requirements.txt and must have the hash that stands there. asman itself is this tree's.

import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, relative, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { gzipSync } from "node:zlib";
import { loadPyodide, version } from "pyodide";
import { nativeModules, workerModules } from "./modules.mjs";
import { openBundle } from "./src/bundle.mjs";

const HERE = fileURLToPath(new URL(".", import.meta.url));
const ROOT = join(HERE, "..", "..");
const { values: flags } = parseArgs({
  options: { wheels: { type: "string" }, out: { type: "string", default: join(HERE, "dist") } },
});

/** Packages of this tree, and what is left out of them: what is for machines with processes, sockets or terminals. */
const OURS = [
  join(ROOT, "asman"),
  join(ROOT, "backends", "asman_cloudflare"),
  join(ROOT, "backends", "asman_sqlite"),
  join(ROOT, "plugins", "asman_ttl"),
  join(HERE, "asman_edge"),
];
const LEFT_OUT = /^asman\/(__main__|client|prefork|serve|cli\/.*|testing\/.*)(\.py|$)/;

/** pip's words for "wheels that Python 3.14 takes": the pure ones, and the one that has a part in C beside its Python. */
const PLATFORM = ["--python-version", "3.14", "--implementation", "cp", "--abi", "cp314", "--abi", "none"].concat(
  ["any", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64"].flatMap((name) => ["--platform", name]),
);

function locked() {
  const text = readFileSync(join(HERE, "requirements.txt"), "utf8");
  const lines = text.split("\n").filter((line) => line.trim() && !line.startsWith("#"));
  return lines.map((line) => {
    const found = /^([\w-]+)==([\w.]+) --hash=sha256:([0-9a-f]{64})$/.exec(line);
    if (!found) throw new Error(`requirements.txt has a line that is not NAME==VERSION --hash=sha256:HASH: ${line}`);
    return { name: found[1], version: found[2], sha256: found[3] };
  });
}

/** The wheels by name, each with the hash that it must have. */
function wheels(wanted) {
  const folder = flags.wheels ?? join(HERE, "dist", "wheels");
  mkdirSync(folder, { recursive: true });
  let found = matching(folder, wanted);
  if (found.length < wanted.length && !flags.wheels) {
    const python = process.env.PYTHON ?? "python3";
    const pip = ["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"];
    const what = ["--only-binary", ":all:", "--require-hashes", "-r", join(HERE, "requirements.txt"), "-d", folder];
    execFileSync(python, [...pip, ...PLATFORM, ...what], { stdio: ["ignore", "ignore", "inherit"] });
    found = matching(folder, wanted);
  }
  const missing = wanted.filter(({ name }) => !found.some((wheel) => wheel.name === name));
  if (missing.length) {
    const names = missing.map((one) => `${one.name} ${one.version}`).join(", ");
    throw new Error(`${folder} has no wheel with the hash of requirements.txt of: ${names}`);
  }
  return found;
}

function matching(folder, wanted) {
  const files = readdirSync(folder).filter((name) => name.endsWith(".whl"));
  const read = files.map((name) => ({ file: name, data: readFileSync(join(folder, name)) }));
  const hashed = new Map(read.map((one) => [createHash("sha256").update(one.data).digest("hex"), one]));
  return wanted.filter((one) => hashed.has(one.sha256)).map((one) => ({ ...one, ...hashed.get(one.sha256) }));
}

/** Files of ours, by their path in the bundle. */
function* sources() {
  for (const folder of OURS) {
    const above = join(folder, "..");
    for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
      const path = join(entry.parentPath, entry.name);
      const inside = relative(above, path).split(sep).join("/");
      if (entry.isFile() && entry.name.endsWith(".py") && !LEFT_OUT.test(inside)) yield [inside, readFileSync(path)];
    }
  }
}

/** Of a wheel only what is imported, and the metadata by which a package finds its own version. */
function isKept(path) {
  return path.endsWith(".py") || path.endsWith(".dist-info/METADATA");
}

async function make() {
  const used = wheels(locked());
  const python = await loadPyodide();
  const folder = "/made";
  const put = (path, data) => {
    const whole = `${folder}/${path}`;
    python.FS.mkdirTree(whole.slice(0, whole.lastIndexOf("/")));
    python.FS.writeFile(whole, data);
  };
  for (const wheel of used) {
    python.unpackArchive(new Uint8Array(wheel.data), "wheel", { extractDir: "/wheel" });
  }
  const all = python.runPython(
    "import os\n[os.path.join(d, f)[len('/wheel/'):] for d, _, fs in os.walk('/wheel') for f in fs]",
  );
  const plain = [...sources()];
  for (const path of all.toJs()) if (isKept(path)) plain.push([path, python.FS.readFile(`/wheel/${path}`)]);
  for (const [path, data] of plain) put(path, data);
  python.runPython(readFileSync(join(HERE, "pack.py"), "utf8"));
  const names = JSON.parse(python.globals.get("pack")(folder));
  return { used, names, plain, bundle: python.FS.readFile(`${folder}.zip`) };
}

/** A form of the Worker, as a folder that holds nothing else. */
function write(form, files) {
  rmSync(join(flags.out, form), { recursive: true, force: true });
  for (const { path, contents } of files) {
    const file = join(flags.out, form, path);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, contents);
  }
}

/** How long a new Python takes until the app has answered. */
async function startSeconds(bundle) {
  const began = performance.now();
  const { host } = await openBundle({ loadPyodide, bundle, settings: { flags: { backend: "memory" } } });
  await host.start();
  const seconds = (performance.now() - began) / 1000;
  await host.stop();
  return Math.round(seconds * 100) / 100;
}

const { used, names, plain, bundle } = await make();
const runtime = ["pyodide.mjs", "pyodide.asm.mjs", "pyodide.asm.wasm", "python_stdlib.zip"].map((name) =>
  readFileSync(fileURLToPath(new URL(name, import.meta.resolve("pyodide")))),
);
const gzipped = (parts) => parts.reduce((sum, data) => sum + gzipSync(data, { level: 9 }).length, 0);
const about = {
  pyodide: version,
  packages: used.map(({ name, version, sha256, file }) => ({ name, version, sha256, file })),
  sha256: createHash("sha256").update(bundle).digest("hex"),
  files: names.length,
  bytes: bundle.length,
  gzippedBytes: gzipped([bundle]),
  withRuntimeBytes: bundle.length + runtime.reduce((sum, data) => sum + data.length, 0),
  withRuntimeGzippedBytes: gzipped([bundle, ...runtime]),
  startSeconds: await startSeconds(bundle),
};
mkdirSync(flags.out, { recursive: true });
writeFileSync(join(flags.out, "bundle.zip"), bundle);
write("worker", workerModules(join(flags.out, "bundle.zip")));
write("native", [
  ...nativeModules(),
  ...plain.map(([path, contents]) => ({ path: `python_modules/${path}`, contents })),
]);
writeFileSync(join(flags.out, "bundle.json"), `${JSON.stringify(about, null, 2)}\n`);
const mib = (bytes) => `${(bytes / 2 ** 20).toFixed(2)} MiB`;
console.log(
  `${join(flags.out, "bundle.zip")}: ${names.length} files, ${mib(about.bytes)}, gzipped ${mib(about.gzippedBytes)}`,
);
console.log(`with Pyodide ${version}: ${mib(about.withRuntimeBytes)}, gzipped ${mib(about.withRuntimeGzippedBytes)}`);
console.log(`starts in ${about.startSeconds} s`);
