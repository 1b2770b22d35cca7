/** Small charts: drawn by the DOM, each with its numbers in words and as a table. */

import { useId } from "preact/hooks";
import { type Chart, columnsOf, type Series, stepsPath, tickOf } from "./chart-model.ts";
import "./charts.css";

/** How much of something is used. The text says it; the bar repeats it. */
export function Meter(props: { label: string; used: number; total: number | null; text: string }) {
  const { label, used, total, text } = props;
  const share = total ? Math.min(used / total, 1) : 0;
  return (
    <div class="meter">
      <span class="meter-label muted">{label}</span>
      <svg class="meter-bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">
        <rect class="meter-ground" width="100" height="8" />
        {total !== null && <rect class={share >= 1 ? "meter-full" : "meter-used"} width={share * 100} height="8" />}
      </svg>
      <span class="meter-text">{text}</span>
    </div>
  );
}

const HEIGHT = 100;
const STEP = 10;

/** Of an hour in which nothing happened, only the sentence: an empty frame looks as if something were broken. */
export function MinuteChart({ chart }: { chart: Chart }) {
  const id = useId();
  const { title, summary, series, times, top, show, isEmpty } = chart;
  const width = Math.max(times.length, 1) * STEP;
  const half = HEIGHT / 2;
  if (isEmpty)
    return (
      <figure class="chart" aria-labelledby={`${id}-title`}>
        <figcaption class="chart-title" id={`${id}-title`}>
          {title}
        </figcaption>
        <p class="chart-summary">{summary}</p>
      </figure>
    );
  return (
    <figure class="chart" aria-labelledby={`${id}-title`}>
      <figcaption>
        <span class="chart-title" id={`${id}-title`}>
          {title}
        </span>
        <ul class="chart-legend" aria-hidden="true">
          {series.map(({ name, tone }) => (
            <li key={name}>
              <span class={`chart-key chart-${tone}`} />
              {name}
            </li>
          ))}
        </ul>
      </figcaption>
      <div class="chart-plot">
        <span class="chart-top muted" aria-hidden="true">
          {show(top)}
        </span>
        <svg
          class="chart-svg"
          viewBox={`0 0 ${width} ${HEIGHT}`}
          preserveAspectRatio="none"
          role="img"
          aria-label={`${title}: ${summary}`}
        >
          <path class="chart-grid" d={`M0 0H${width}M0 ${half}H${width}M0 ${HEIGHT}H${width}`} />
          <Marks series={series} top={top} />
        </svg>
        <span class="chart-times muted" aria-hidden="true">
          <span>{times.length ? tickOf(times[0] as number) : ""}</span>
          <span>{times.length > 2 ? tickOf(times[Math.floor((times.length - 1) / 2)] as number) : ""}</span>
          <span>now</span>
        </span>
      </div>
      <p class="chart-summary">{summary}</p>
      <details>
        <summary>
          Numbers<span class="sr-only"> of {title}</span>
        </summary>
        <div class="chart-table">
          <table>
            <thead>
              <tr>
                <th scope="col">Minute</th>
                {series.map(({ name }) => (
                  <th scope="col" key={name}>
                    {name}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {times.map((time, at) => (
                <tr key={time}>
                  <th scope="row">{tickOf(time)}</th>
                  {series.map(({ name, values }) => {
                    const value = values[at] ?? null;
                    return <td key={name}>{value === null ? "–" : show(value)}</td>;
                  })}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      </details>
    </figure>
  );
}

function Marks({ series, top }: { series: readonly Series[]; top: number }) {
  const bars = series.filter(({ kind }) => kind === "bar");
  const lines = series.filter(({ kind }) => kind === "line");
  return (
    <>
      {columnsOf(bars, top, { height: HEIGHT, step: STEP }).map(({ x, y, width, height, tone }) => (
        <rect key={`${x}-${tone}`} class={`chart-${tone}`} x={x} y={y} width={width} height={height} />
      ))}
      {lines.map(({ name, tone, values }) => (
        <path
          key={name}
          class={`chart-line chart-${tone}`}
          d={stepsPath(values, top, { height: HEIGHT, step: STEP })}
        />
      ))}
    </>
  );
}
