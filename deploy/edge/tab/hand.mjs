// A worker of protocol 2 whose machine is a person: takes one job at a time, prints what is typed, ends it when told.

import { Client } from "../client.js";
import "./page.js";

const SERVER = new URL("../", import.meta.url).href.replace(/\/$/, "");
const AGAIN_MS = 1_000;
const NAME = `by-hand-${crypto.randomUUID().slice(0, 8)}`;

const $ = (id) => document.getElementById(id);
const client = new Client({ server: SERVER });
let socket;
let queue = "";
let held;
let renewing;

$("queue").value = decodeURIComponent(location.hash.slice(1));
if ($("queue").value) connect();

function say(kind, payload) {
  socket.send(JSON.stringify({ type: kind, payload }));
}

function tell(text) {
  $("said").textContent = text;
}

// --- the connection --------------------------------------------------------------------------------------------------

function connect() {
  if (socket) socket.onclose = null;
  socket?.close();
  queue = $("queue").value;
  history.replaceState(null, "", `#${encodeURIComponent(queue)}`);
  tell("Connecting: the server starts, if it has not yet.");
  socket = new WebSocket(`${SERVER.replace(/^http/, "ws")}/q/${encodeURIComponent(queue)}/worker?protocol=2`);
  socket.onopen = register;
  socket.onmessage = ({ data }) => heard(JSON.parse(data));
  socket.onclose = () => {
    clearInterval(renewing);
    tell("The connection is lost; trying again.");
    setTimeout(connect, AGAIN_MS);
  };
}

function register() {
  const capacity = { cpus: 1, memory_bytes: 1 << 30, gpus: [], tags: [], max_duration_s: 86_400 };
  const holding = held ? { [held.jobId]: held.attempt } : {};
  const shown = { id: NAME, version: "1", cpus: 1, gpus: 0, maxJobDuration: "1d", time: Date.now() };
  say("WorkerRegistration", { ...shown, protocol: 2, capacity, holding });
}

function heard({ type, payload }) {
  if (type === "Registered") {
    clearInterval(renewing);
    renewing = setInterval(renew, payload.renew_s * 1000);
    if (!held) ready("Connected");
    else if (held.jobId in payload.adopted) tell(`You run job ${held.jobId.slice(0, 12)}, as before.`);
    else drop("The job was given to another worker");
  } else if (type === "Assign") take(payload);
  else if (type === "Renewed" && held && payload.lost.includes(held.jobId)) drop("The job was stopped");
  else if (type === "Revoke" && payload.jobId === held?.jobId) drop("The job was stopped");
  else if (type === "Error") tell(payload.error);
}

function ready(words) {
  tell(`${words}. Waiting for a job of ${queue}.`);
  say("Ready", { jobs: 1 });
}

/** What a person says meanwhile is kept in its field, and can be said again. */
function isConnected() {
  if (socket.readyState === WebSocket.OPEN) return true;
  tell("Not connected; try again in a moment.");
  return false;
}

function renew() {
  if (held) say("Renew", { jobs: { [held.jobId]: held.attempt } });
}

// --- a job -----------------------------------------------------------------------------------------------------------

function take({ jobId, attempt, definition }) {
  held = { jobId, attempt, began: Date.now(), lines: [] };
  say("StateChange", {
    job: jobId,
    tag: NAME,
    state: "Running",
    value: { type: "Running", worker: NAME, time: Date.now() },
  });
  $("definition").textContent = JSON.stringify(definition, null, 2);
  $("inputs").replaceChildren(...Object.keys(definition.inputs ?? {}).map((name) => input(jobId, name)));
  $("job").hidden = false;
  tell(`You run job ${jobId.slice(0, 12)}.`);
}

function input(jobId, name) {
  const link = document.createElement("a");
  link.href = client.inputUrl(queue, jobId, name);
  link.download = name.split("/").pop();
  link.textContent = `/inputs/${name}`;
  const line = document.createElement("p");
  line.append(link);
  return line;
}

function drop(words) {
  held = undefined;
  $("job").hidden = true;
  ready(words);
}

$("connect").addEventListener("submit", (event) => {
  event.preventDefault();
  connect();
});

$("say").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!isConnected()) return;
  const lines = $("line")
    .value.split("\n")
    .map((line) => [`${line}\n`, Date.now()]);
  const { jobId, attempt } = held;
  say("JobStatusLogs", { jobId, attempt, step: "Running", seq: held.lines.length, logs: lines });
  held.lines.push(...lines);
  $("line").value = "";
});

$("end").addEventListener("submit", async (event) => {
  event.preventDefault();
  const { jobId, attempt, lines, began } = held;
  try {
    const outputs = {};
    for (const file of $("outputs").files) outputs[file.name] = await client.upload(file);
    const result = {
      logs: lines,
      outputs,
      StatusCode: Number($("code").value),
      isTimedOut: false,
      duration: Date.now() - began,
    };
    const reason = result.StatusCode === 0 ? "Success" : "Error";
    if (!isConnected()) return;
    const value = { type: "Finished", reason, worker: NAME, time: Date.now(), result };
    say("StateChange", { job: jobId, tag: NAME, state: "Finished", attempt, value });
  } catch (error) {
    tell(error.message);
    return;
  }
  event.target.reset();
  drop("Done");
});
