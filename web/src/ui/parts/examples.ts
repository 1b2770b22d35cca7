/** Three jobs to begin with: each is a whole one, small, and shows something else. Pure. */

import { encodeJson } from "../hash.ts";

export interface Example {
  title: string;
  about: string;
  job: Record<string, unknown>;
  inputs?: Record<string, string>;
}

const STATISTICS = `import csv
import json
import statistics

with open("/inputs/heights.csv") as file:
    heights = [float(row["cm"]) for row in csv.DictReader(file)]

result = {"people": len(heights), "mean": statistics.mean(heights), "deviation": statistics.stdev(heights)}
print(result)

with open("/outputs/result.json", "w") as file:
    json.dump(result, file, indent=2)

# A picture without any library: one bar for each person.
bars = "".join(f'<rect x="{i * 24}" y="{220 - cm}" width="20" height="{cm}"/>' for i, cm in enumerate(heights))
with open("/outputs/heights.svg", "w") as file:
    file.write(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {len(heights) * 24} 220" fill="teal">{bars}</svg>')
`;

const HEIGHTS = "name,cm\nAda,165\nGrace,168\nAlan,178\nEdsger,182\nBarbara,171\n";

const DOCKERFILE = `FROM alpine:3.19.1
RUN echo "built for $(uname -m) at $(date -u)" > /built.txt
CMD ["cat", "/built.txt"]
`;

export const EXAMPLES: readonly Example[] = [
  {
    title: "Say hello",
    about: "One command in a small image.",
    job: { image: "alpine:3.19.1", command: "echo hello world" },
  },
  {
    title: "Python, with files",
    about: "A script reads a table, and writes a result and a picture.",
    job: { image: "python:3.12-alpine", command: "python /inputs/statistics_of.py" },
    inputs: { "statistics_of.py": STATISTICS, "heights.csv": HEIGHTS },
  },
  {
    title: "Build an image",
    about: "From a Dockerfile in the link. The worker keeps it for the next run.",
    job: { build: { dockerfile: DOCKERFILE } },
  },
];

/** The hash of a link with this job, and with a queue if there is one. */
export function hashOf({ job, inputs }: Pick<Example, "job" | "inputs">, queue: string): string {
  const pieces: [string, string][] = [["job", encodeJson(job)]];
  if (inputs) pieces.unshift(["inputs", encodeJson(inputs)]);
  if (queue) pieces.push(["queue", queue]);
  return `#?${pieces.map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join("&")}`;
}
