// The one k6 script of the demo benchmark: loads one URL, closed loop or open loop, told by its environment.
//
//   BENCH_URL         URL to load, without a query string                              required
//   BENCH_MODE        closed (constant VUs) | open (constant arrival rate)             closed
//   BENCH_DURATION    how long, as k6 writes it                                        5s
//   BENCH_VUS         concurrent clients; in open mode the number kept ready           8
//   BENCH_RATE        open mode: requests started per second                           required when open
//   BENCH_METHOD      GET | POST                                                       GET
//   BENCH_QUERIES     JSON list of query strings, taken in turn                        [""]
//   BENCH_BODY_FILE   file sent as the body (application/json)                         none
//   BENCH_EXPECT_KEY  JSON key that a good body holds                                  none
//   BENCH_SLO_MS      answers within this time are counted apart                       none
//   BENCH_TIMEOUT_MS  how long a client waits for an answer                            30000
//   BENCH_START       how long after the others' start the load of BENCH_URL begins    0s
//   BENCH_OTHERS      JSON list of other clients, each asking again at once:           []
//                     {name, url, vus, duration_ms, honours}; with honours, those that
//                     are refused wait as long as the answer's Retry-After says
//   BENCH_SUMMARY     file for the JSON summary                                        standard output
//
// By hand: BENCH_URL=http://127.0.0.1:8000/offload/ k6 run --no-usage-report bench/k6/demo.js

import { sleep } from 'k6';
import http from 'k6/http';
import exec from 'k6/execution';
import { Counter, Trend } from 'k6/metrics';

const url = required('BENCH_URL');
const mode = __ENV.BENCH_MODE || 'closed';
const duration = __ENV.BENCH_DURATION || '5s';
const startTime = __ENV.BENCH_START || '0s';
const vus = Number(__ENV.BENCH_VUS || 8);
const method = __ENV.BENCH_METHOD || 'GET';
const queries = JSON.parse(__ENV.BENCH_QUERIES || '[""]');
const body = __ENV.BENCH_BODY_FILE ? open(__ENV.BENCH_BODY_FILE, 'b') : null;
// A search for the key costs k6 far less processor time than parsing, and k6 shares the processor with what it
// measures; that the bodies are right to the last value is verified by the runner before any load.
const needle = __ENV.BENCH_EXPECT_KEY ? `"${__ENV.BENCH_EXPECT_KEY}"` : '';

const urls = queries.map((query) => (query ? `${url}?${query}` : url));
const sloMs = Number(__ENV.BENCH_SLO_MS || 0);
const others = JSON.parse(__ENV.BENCH_OTHERS || '[]');
const params = {
  headers: body ? { 'Content-Type': 'application/json' } : {},
  redirects: 0,
  timeout: Number(__ENV.BENCH_TIMEOUT_MS || 30000),
};
// No request is cut off and counted nowhere: each is answered or given up on.
const gracefulStop = `${params.timeout + 1000}ms`;

const ok = new Counter('bench_ok');
const okMs = new Trend('bench_ok_ms', true);
const within = new Counter('bench_within_slo');
const counted = {};
for (const { name } of others) {
  counted[name] = {};
  for (const what of ['ok', 'refused', 'failed']) counted[name][what] = new Counter(`bench_other_${name}_${what}`);
}
const failures = {
  transport: new Counter('bench_failed_transport'),
  busy_429: new Counter('bench_failed_busy_429'),
  unavailable_503: new Counter('bench_failed_unavailable_503'),
  timeout_504: new Counter('bench_failed_timeout_504'),
  status: new Counter('bench_failed_status'),
  body: new Counter('bench_failed_body'),
};

export const options = {
  scenarios: Object.assign(
    { main: scenario() },
    ...others.map((each) => ({ [each.name]: otherScenario(each) })),
  ),
  summaryTrendStats: [
    'min', 'avg', 'p(10)', 'p(25)', 'p(50)', 'p(75)', 'p(90)', 'p(95)', 'p(99)', 'p(99.9)', 'max', 'count',
  ],
  // Tags multiply time series and cost processor time; nothing here reads them.
  systemTags: ['status'],
};

function required(name) {
  const value = __ENV[name];
  if (!value) throw new Error(`${name} is not set`);
  return value;
}

function scenario() {
  if (mode === 'closed') {
    return { executor: 'constant-vus', vus, duration, startTime, gracefulStop };
  }
  if (mode === 'open') {
    return {
      executor: 'constant-arrival-rate',
      rate: Number(required('BENCH_RATE')),
      timeUnit: '1s',
      duration,
      startTime,
      preAllocatedVUs: vus,
      maxVUs: vus,
      gracefulStop,
    };
  }
  throw new Error(`BENCH_MODE is '${mode}', allowed are closed and open`);
}

function otherScenario(each) {
  return {
    executor: 'constant-vus', vus: each.vus, duration: `${each.duration_ms}ms`, gracefulStop, exec: 'other',
  };
}

// Nobody sleeps on when the running scenario has ended. A little longer than its time, so that none asks once more.
function secondsLeft(durationMs) {
  return Math.max(0, exec.scenario.startTime + durationMs + 50 - Date.now()) / 1000;
}

export function other() {
  const { name, url: address, honours, duration_ms: durationMs } = others.find((each) => each.name === exec.scenario.name);
  const response = http.get(address, { redirects: 0, timeout: params.timeout });
  const refused = response.status === 429;
  counted[name][response.status === 200 ? 'ok' : refused ? 'refused' : 'failed'].add(1);
  if (refused && honours) sleep(Math.min(Number(response.headers['Retry-After'] || 0), secondsLeft(durationMs)));
}

function failureOf(response) {
  if (response.status === 0) return failures.transport;
  if (response.status === 429) return failures.busy_429;
  if (response.status === 503) return failures.unavailable_503;
  if (response.status === 504) return failures.timeout_504;
  if (response.status !== 200) return failures.status;
  if (!response.body || (needle && !response.body.includes(needle))) return failures.body;
  return null;
}

export default function () {
  const response = http.request(method, urls[exec.scenario.iterationInTest % urls.length], body, params);
  const failure = failureOf(response);
  if (failure) {
    failure.add(1);
    return;
  }
  ok.add(1);
  // Only good answers count as latency: a refusal is quick and would flatter the percentiles.
  okMs.add(response.timings.duration);
  if (sloMs && response.timings.duration <= sloMs) within.add(1);
}

export function handleSummary(data) {
  return { [__ENV.BENCH_SUMMARY || 'stdout']: JSON.stringify(data, null, 1) };
}
