/** Icons, drawn with strokes on a grid of 24. They are decoration: the name stands beside them or on their button. */

const PATHS = {
  run: "M7 4l13 8-13 8z",
  stop: "M6 6h12v12H6z",
  again: "M4 12a8 8 0 1 0 2.5-5.8M4 4v5h5",
  save: "M5 4h11l3 3v13H5zM8 4v5h7V4M8 20v-6h8v6",
  close: "M6 6l12 12M18 6L6 18",
  check: "M5 12.5l4.5 4.5L19 7.5",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  warn: "M12 4l9 16H3zM12 10v5M12 17.5v.5",
  bad: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zM12 7v6M12 16.5v.5",
  wait: "M7 3h10M7 21h10M8 3v4l4 5-4 5v4M16 3v4l-4 5 4 5v4",
  running: "M12 3a9 9 0 1 0 9 9",
  // A file that goes in, and one that comes out: an arrow to or from a line is a download.
  inputs: "M9 8V3h7l4 4v14H9v-5M16 3v4h4M3 12h10M10 9l3 3-3 3",
  outputs: "M15 8V7l-4-4H4v18h11v-5M11 3v4h4M10 12h11M18 9l3 3-3 3",
  settings: "M4 7h9M17 7h3M4 17h3M11 17h9M15 4.5v5M9 14.5v5",
  queue: "M4 6h16M4 12h16M4 18h10",
  share:
    "M9 12l6-4M9 12l6 4M5 9.5a2.5 2.5 0 1 0 0 5 2.5 2.5 0 0 0 0-5zM18 4a2.5 2.5 0 1 0 0 5 2.5 2.5 0 0 0 0-5zM18 15a2.5 2.5 0 1 0 0 5 2.5 2.5 0 0 0 0-5z",
  history: "M4 12a8 8 0 1 0 2.5-5.8M4 4v5h5M12 8v4.5l3 2",
  help: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zM9.5 9.5a2.5 2.5 0 1 1 3.5 2.3c-.7.3-1 .8-1 1.7M12 16.5v.5",
  search: "M10.5 4a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13zM15.5 15.5L20 20",
  clock: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zM12 7v5.5l3.5 2",
  download: "M12 4v11M7.5 10.5L12 15l4.5-4.5M4 19h16",
  wrap: "M4 6h16M4 12h13a3 3 0 0 1 0 6h-5M14 15.5L11.5 18l2.5 2.5M4 18h4",
  down: "M12 4v15M6 13l6 6 6-6",
  up: "M12 20V5M6 11l6-6 6 6",
  more: "M4.5 12a1 1 0 1 0 2 0 1 1 0 1 0-2 0zM11 12a1 1 0 1 0 2 0 1 1 0 1 0-2 0zM17.5 12a1 1 0 1 0 2 0 1 1 0 1 0-2 0z",
  pending: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8z",
  split: "M4 4h16v16H4zM12 4v16",
  edit: "M4 20l1-4L16.5 4.5l3 3L8 19zM14 7l3 3",
  trash: "M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13M10 11v5M14 11v5",
  folder: "M3 6h6l2 2h10v11H3z",
  rename: "M4 8h8M4 16h8M17 4v16M14.5 4h5M14.5 20h5",
  expand: "M9 6l6 6-6 6",
  add: "M12 5v14M5 12h14",
  file: "M6 3h8l4 4v14H6zM14 3v4h4",
  offline: "M3 3l18 18M5 12.5a10 10 0 0 1 4-2.3M15 10.2a10 10 0 0 1 4 2.3M8.5 16a5 5 0 0 1 7 0M12 19.5v.5",
  lock: "M6 11h12v9H6zM8.5 11V8a3.5 3.5 0 0 1 7 0v3",
  eye: "M2.5 12C5 7.5 8.5 6 12 6s7 1.5 9.5 6c-2.5 4.5-6 6-9.5 6s-7-1.5-9.5-6zM12 9.5a2.5 2.5 0 1 0 0 5 2.5 2.5 0 0 0 0-5z",
  link: "M10 14a4 4 0 0 0 6 .5l3-3a4 4 0 0 0-6-6l-1 1M14 10a4 4 0 0 0-6-.5l-3 3a4 4 0 0 0 6 6l1-1",
  worker: "M4 5h16v10H4zM9 19h6M12 15v4",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name }: { name: IconName }) {
  return (
    <svg class={`icon icon-${name}`} viewBox="0 0 24 24" width="18" height="18" aria-hidden="true" focusable="false">
      <path
        d={PATHS[name]}
        fill="none"
        stroke="currentColor"
        stroke-width="1.8"
        stroke-linecap="round"
        stroke-linejoin="round"
      />
    </svg>
  );
}
