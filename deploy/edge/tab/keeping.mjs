// Files of Python's that the browser keeps: SQLite's, in the origin's private file system.
//
// Python reads and writes at once, without waiting; a browser's handles can do that too, but only in a dedicated worker,
// and they can be had only by waiting. So the handles of all files that there will ever be are opened first: each
// database, and its log, which SQLite makes and removes as it likes. A file that SQLite removed is an empty one here.
// What it shares between connections (-shm) stays in memory: it is made again from the log.

const AGAIN_MS = 100;
const WAIT_MS = 15_000;
const PENDING_BYTES = 1 << 18;
const [EIO, ENOSPC] = [29, 51]; // as WASI numbers them

/**
 * `place` in Python's file system keeps `names`, and what belongs to them, in `folder` of this origin.
 * Gives a function that brings what was written to the disk. SQLite asks for that by a call that Emscripten does not
 * pass on (fdatasync), so it is for the host to do: before it tells anybody that something is done.
 */
export async function keepFiles({ FS, place, folder, names }) {
  const root = await navigator.storage.getDirectory();
  const kept = await root.getDirectoryHandle(folder, { create: true });
  const handles = new Map();
  for (const name of names.flatMap((name) => [name, `${name}-wal`, `${name}-journal`])) {
    handles.set(name, await opened(await kept.getFileHandle(name, { create: true })));
  }
  const writing = new Writing(FS);
  FS.mkdirTree(place);
  const made = FS.lookupPath(place).node;
  const memory = made.node_ops;
  made.node_ops = {
    ...memory,
    mknod(parent, name, mode, device) {
      const node = memory.mknod(parent, name, mode, device);
      if (handles.has(name)) adopt(node, handles.get(name), writing);
      return node;
    },
    unlink(parent, name) {
      if (handles.has(name)) writing.truncate(handles.get(name), 0);
      memory.unlink(parent, name);
    },
  };
  for (const [name, handle] of handles) if (handle.getSize()) FS.create(`${place}/${name}`, 0o644);
  return () => writing.flush();
}

/** A tab that was closed a moment ago may still hold it. */
async function opened(file) {
  for (const until = performance.now() + WAIT_MS; ; ) {
    try {
      return await file.createSyncAccessHandle();
    } catch (error) {
      if (error.name !== "NoModificationAllowedError" || performance.now() > until) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
  }
}

/** A file in memory becomes one whose bytes are behind the handle. */
function adopt(node, handle, writing) {
  const { getattr, setattr } = node.node_ops;
  const bytes = (heap, offset, length) => new Uint8Array(heap.buffer, heap.byteOffset + offset, length);
  const size = () => writing.size(handle);
  node.node_ops = {
    getattr: (of) => ({ ...getattr(of), size: size() }),
    setattr(of, { size, ...rest }) {
      if (size !== undefined) writing.truncate(handle, size);
      setattr(of, rest);
    },
  };
  node.stream_ops = {
    llseek: (stream, offset, whence) => offset + [0, stream.position, whence === 2 ? size() : 0][whence],
    read: (_, heap, offset, length, at) => writing.read(handle, bytes(heap, offset, length), at),
    write(_, heap, offset, length, at) {
      writing.write(handle, bytes(heap, offset, length), at);
      return length;
    },
    fsync() {
      writing.flush();
      return 0;
    },
  };
}

/**
 * Writes, in their order over all files. A call costs more than its bytes (in a private window it goes to another
 * process), and SQLite writes its log in small pieces one behind the other: those are put together.
 *
 * So a write may fail after SQLite was told that it was done. From then on everything fails here: the server ends and
 * starts again, and SQLite finds in its log what is whole.
 */
class Writing {
  #FS;
  #buffer = new Uint8Array(PENDING_BYTES);
  #pending;
  #last;
  #unflushed = new Set();
  #fault;

  constructor(FS) {
    this.#FS = FS;
  }

  read(handle, data, at) {
    this.#pass();
    return this.#try(() => handle.read(data, { at }));
  }

  size(handle) {
    this.#pass();
    return this.#try(() => handle.getSize());
  }

  write(handle, data, at) {
    this.#turnTo(handle);
    const last = this.#pending;
    if (last?.handle !== handle || last.at + last.length !== at || last.length + data.length > PENDING_BYTES) {
      this.#pass();
      if (data.length > PENDING_BYTES) return this.#write(handle, data, at);
      this.#pending = { handle, at, length: 0 };
    }
    this.#buffer.set(data, this.#pending.length);
    this.#pending.length += data.length;
  }

  truncate(handle, size) {
    this.#turnTo(handle);
    this.#pass();
    this.#unflushed.add(handle);
    this.#try(() => handle.truncate(size));
  }

  /** To the disk. Errors: what the browser said first, of this or of an earlier call. */
  flush() {
    try {
      this.#pass();
      for (const handle of this.#unflushed) this.#try(() => handle.flush());
    } catch (error) {
      throw this.#fault ?? error;
    }
    this.#unflushed.clear();
  }

  /** Before another file is changed, what was written is on the disk: SQLite counts on that between log and database. */
  #turnTo(handle) {
    if (handle === this.#last) return;
    this.#pass();
    for (const written of this.#unflushed) this.#try(() => written.flush());
    this.#unflushed.clear();
    this.#last = handle;
  }

  #pass() {
    const pending = this.#pending;
    this.#pending = undefined;
    if (pending) this.#write(pending.handle, this.#buffer.subarray(0, pending.length), pending.at);
  }

  #write(handle, data, at) {
    this.#unflushed.add(handle);
    this.#try(() => {
      const written = handle.write(data, { at });
      if (written < data.length) throw new DOMException("the disk is full", "QuotaExceededError");
    });
  }

  /** Errors: as Python's file system has them. */
  #try(work) {
    try {
      if (!this.#fault) return work();
    } catch (error) {
      this.#fault = error;
    }
    throw new this.#FS.ErrnoError(this.#fault.name === "QuotaExceededError" ? ENOSPC : EIO);
  }
}
