// Python started in this host, with asman's bundle on its path. What it is given is bytes, so any host can use it.

const BUNDLE = "/asman-bundle.zip";

/** Python with the bundle on its path. loadPyodide: of the `pyodide` package; options are passed on to it. */
export async function openPython({ loadPyodide, bundle, options = {} }) {
  const python = await loadPyodide(options);
  python.FS.writeFile(BUNDLE, bundle);
  python.runPython(`import sys; sys.path.insert(0, ${JSON.stringify(BUNDLE)})`);
  return python;
}

/**
 * The Python half's `Host`, not yet started.
 *
 * bundle: the bytes that the build made. settings: `{flags, environ}` as asman's load_config takes them.
 */
export async function openBundle({ settings, ...given }) {
  const python = await openPython(given);
  const begin = python.pyimport("asman_edge.host").begin;
  try {
    return { python, host: begin(JSON.stringify(settings)) };
  } catch (error) {
    throw new Error(lastLine(error.message));
  }
}

/** What a Python error says; its traceback and the glue's are for nobody who sets a setting. */
function lastLine(text) {
  const lines = text.trim().split("\n");
  return lines[lines.length - 1].replace(/^[\w.]*\.(\w+): /, "$1: ");
}
