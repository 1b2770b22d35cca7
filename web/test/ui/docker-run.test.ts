import { describe, expect, it } from "vitest";
import { looksLikeDockerRun, NoDockerRun, readDockerRun, splitShell } from "../../src/ui/parts/docker-run.ts";
import { checkDefinition } from "../../src/ui/parts/validate.ts";

type Row = [line: string, definition: Record<string, unknown>, notes?: (string | RegExp)[]];

const READ: Row[] = [
  ["docker run alpine", { image: "alpine" }],
  ["docker run alpine:3.19 echo hello", { image: "alpine:3.19", command: "echo hello" }],
  ["  $ docker run alpine ls", { image: "alpine", command: "ls" }],
  ["sudo docker run alpine ls", { image: "alpine", command: "ls" }],
  ["sudo -E docker run alpine ls", { image: "alpine", command: "ls" }],
  ["docker container run alpine ls", { image: "alpine", command: "ls" }],
  ["podman run docker.io/library/alpine ls", { image: "docker.io/library/alpine", command: "ls" }],
  ["docker run --rm -it alpine sh", { image: "alpine", command: "sh" }],
  ["docker run -d --name web --restart=always nginx", { image: "nginx" }],
  ["docker run alpine ls -la --color", { image: "alpine", command: "ls -la --color" }],
  ["docker run -- alpine ls", { image: "alpine", command: "ls" }],
  [`docker run alpine sh -c "echo hi && ls"`, { image: "alpine", command: "sh -c 'echo hi && ls'" }],
  [`docker run alpine sh -c 'echo "a b"'`, { image: "alpine", command: `sh -c 'echo "a b"'` }],
  [`docker run alpine echo 'it'"'"'s'`, { image: "alpine", command: `echo 'it'"'"'s'` }],
  ["docker run alpine echo a\\ b", { image: "alpine", command: "echo 'a b'" }],
  ["docker run alpine echo ''", { image: "alpine", command: "echo ''" }],
  [`docker run alpine grep 'a\\' x`, { image: "alpine", command: ["grep", "a\\", "x"] }],
  ["docker run -e A=1 alpine", { image: "alpine", env: { A: "1" } }],
  ["docker run -eA=1 alpine", { image: "alpine", env: { A: "1" } }],
  ["docker run -e=A=1 alpine", { image: "alpine", env: { A: "1" } }],
  ["docker run --env A=b=c --env=D=e alpine", { image: "alpine", env: { A: "b=c", D: "e" } }],
  [`docker run -e "A=x y" -e B='' alpine`, { image: "alpine", env: { A: "x y", B: "" } }],
  ["docker run -e A= alpine", { image: "alpine", env: { A: "" } }],
  ["docker run -ite A=1 alpine", { image: "alpine", env: { A: "1" } }],
  ["docker run -e TOKEN alpine", { image: "alpine" }, [/--env TOKEN .*NAME=VALUE/]],
  ["docker run -w /srv alpine", { image: "alpine", workdir: "/srv" }],
  ["docker run -w/srv alpine", { image: "alpine", workdir: "/srv" }],
  ["docker run --workdir=/srv alpine", { image: "alpine", workdir: "/srv" }],
  ["docker run --entrypoint /bin/sh alpine -c ls", { image: "alpine", entrypoint: "/bin/sh", command: "-c ls" }],
  ["docker run --entrypoint '/a b' alpine", { image: "alpine", entrypoint: "'/a b'" }],
  ["docker run --entrypoint= alpine", { image: "alpine" }, [/entrypoint/]],
  ["docker run --gpus 2 pytorch/pytorch", { image: "pytorch/pytorch", requirements: { gpus: 2 } }],
  ["docker run --gpus=all x", { image: "x", requirements: { gpus: 1 } }, [/--gpus all was changed to 1/]],
  [`docker run --gpus '"device=0,2"' x`, { image: "x", requirements: { gpus: 2 } }, [/worker chooses which/]],
  ["docker run --gpus count=3,capabilities=utility x", { image: "x", requirements: { gpus: 3 } }],
  ["docker run -m 2g --cpus 1.5 x", { image: "x", requirements: { memory: "2g", cpus: 1.5 } }],
  ["docker run --memory=512m --cpus=.5 x", { image: "x", requirements: { memory: "512m", cpus: 0.5 } }],
  ["docker run --cpus lots x", { image: "x" }, [/--cpus lots/]],
  ["docker run --shm-size=1g x", { image: "x", shmSize: "1g" }],
  ["docker run --platform linux/arm64 x", { image: "x" }, [/--platform .* build only/]],
  ["docker run --network none x", { image: "x", requirements: { network: "none" } }],
  ["docker run --network=host x", { image: "x" }, [/--network host/]],
  [
    "docker run -v $(pwd):/data -p 80:80 x ls",
    { image: "x", command: "ls" },
    [/Variables/, /--volume .*\/inputs/, /ports/],
  ],
  ["docker run -v $(cat a b):/data x ls", { image: "x", command: "ls" }, [/Variables/, /--volume/]],
  ["docker run --privileged --user 0 --cap-add=ALL x", { image: "x" }, [/--privileged/, /--user/, /--cap-add/]],
  ["docker run --ulimit nofile=9 --tmpfs /x x", { image: "x" }, [/--ulimit/, /--tmpfs/]],
  ["docker run --privileged=false x", { image: "x" }],
  ["docker run alpine echo $HOME", { image: "alpine", command: "echo '$HOME'" }, [/Variables/]],
  ["docker run alpine ls | wc -l", { image: "alpine", command: "ls" }, [/What follows \|/]],
  ["docker run alpine ls > out.txt", { image: "alpine", command: "ls" }, [/What follows >/]],
  ["docker run alpine ls # a remark", { image: "alpine", command: "ls" }],
  ["docker run alpine echo a#b", { image: "alpine", command: "echo 'a#b'" }],
  ["docker run \\\n  -e A=1 \\\n  alpine \\\n  ls -l", { image: "alpine", env: { A: "1" }, command: "ls -l" }],
  ["docker run \\  \r\n  -e A=1 \\\r\n alpine ls\r\n", { image: "alpine", env: { A: "1" }, command: "ls" }],
  ["docker run `\n  -e A=1 `\n  alpine", { image: "alpine", env: { A: "1" } }],
  ["docker run ^\n  alpine ls", { image: "alpine", command: "ls" }],
  ["docker pull alpine\ndocker run alpine ls\n", { image: "alpine", command: "ls" }],
  ["docker run alpine ls\ndocker ps", { image: "alpine", command: "ls" }, [/Only the first/]],
  ["docker run ghcr.io/a/b@sha256:0123 x", { image: "ghcr.io/a/b@sha256:0123", command: "x" }],
  [
    "docker run python:3.12 python -c 'print(1)\nprint(2)'",
    { image: "python:3.12", command: "python -c 'print(1)\nprint(2)'" },
  ],
];

describe("a docker run line is read as a definition", () => {
  it.each(READ)("%s", (line, definition, notes = []) => {
    const read = readDockerRun(line);
    expect(read.definition).toEqual(definition);
    expect(read.notes).toHaveLength(notes.length);
    for (const note of notes) expect(read.notes.join("\n")).toMatch(note);
    expect(checkDefinition(read.definition).faults).toEqual([]);
  });
});

describe("a line that cannot be read says why", () => {
  it.each([
    ["docker run", /names no image|no docker run/],
    ["docker run --rm -it", /names no image/],
    ["docker run -e", /--env has no value/],
    ["docker run alpine echo 'a", /quote ' is not closed/],
    [`docker run alpine echo "a`, /quote " is not closed/],
    ["docker ps", /no docker run/],
    ["", /no docker run/],
  ])("%s", (line, why) => {
    expect(() => readDockerRun(line)).toThrow(NoDockerRun);
    expect(() => readDockerRun(line)).toThrow(why);
  });
});

it.each([
  ["docker run x", true],
  ["# try it\n$ docker run x", true],
  ["docker runner x", false],
  ["https://example.org/docker run", false],
])("%j is told from other text", (text, is) => {
  expect(looksLikeDockerRun(text)).toBe(is);
});

it("words are those of a shell", async () => {
  const { execFileSync } = await import("node:child_process");
  const lines = [`a 'b c' "d\\"e" f\\ g`, `'' "" x''y`, `"a\\b" 'a\\b' a\\b`, `--x='1 2' "it's"`, `a\\\n b "c\nd"`];
  for (const line of lines) {
    const shell = execFileSync("sh", ["-c", `printf '%s\\0' ${line}`])
      .toString()
      .split("\0")
      .slice(0, -1);
    expect(splitShell(line).words, line).toEqual(shell);
  }
});
