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
//   BENCH_HEAVY_URL   URL that other clients load meanwhile, each asking again at once none
//   BENCH_HEAVY_VUS   how many of these                                                4
//   BENCH_SUMMARY     file for the JSON summary                                        standard output
//
// By hand: BENCH_URL=http://127.0.0.1:8000/offload/ k6 run --no-usage-report bench/k6/demo.js

import http from 'k6/http';
import exec from 'k6/execution';
import { Counter, Trend } from 'k6/metrics';

const url = required('BENCH_URL');
const mode = __ENV.BENCH_MODE || 'closed';
const duration = __ENV.BENCH_DURATION || '5s';
const vus = Number(__ENV.BENCH_VUS || 8);
const method = __ENV.BENCH_METHOD || 'GET';
const queries = JSON.parse(__ENV.BENCH_QUERIES || '[""]');
const body = __ENV.BENCH_BODY_FILE ? open(__ENV.BENCH_BODY_FILE, 'b') : null;
// A search for the key costs k6 far less processor time than parsing, and k6 shares the processor with what it
// measures; that the bodies are right to the last value is verified by the runner before any load.
const needle = __ENV.BENCH_EXPECT_KEY ? `"${__ENV.BENCH_EXPECT_KEY}"` : '';

const urls = queries.map((query) => (query ? `${url}?${query}` : url));
const sloMs = Number(__ENV.BENCH_SLO_MS || 0);
const heavyUrl = __ENV.BENCH_HEAVY_URL || '';
const params = {
  headers: body ? { 'Content-Type': 'application/json' } : {},
  redirects: 0,
  timeout: Number(__ENV.BENCH_TIMEOUT_MS || 30000),
};

const ok = new Counter('bench_ok');
const okMs = new Trend('bench_ok_ms', true);
const within = new Counter('bench_within_slo');
const heavyOk = new Counter('bench_heavy_ok');
const heavyFailed = new Counter('bench_heavy_failed');
const failures = {
  transport: new Counter('bench_failed_transport'),
  busy_429: new Counter('bench_failed_busy_429'),
  unavailable_503: new Counter('bench_failed_unavailable_503'),
  timeout_504: new Counter('bench_failed_timeout_504'),
  status: new Counter('bench_failed_status'),
  body: new Counter('bench_failed_body'),
};

export const options = {
  scenarios: heavyUrl ? { main: scenario(), heavy: heavyScenario() } : { main: scenario() },
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
    return { executor: 'constant-vus', vus, duration, gracefulStop: '10s' };
  }
  if (mode === 'open') {
    return {
      executor: 'constant-arrival-rate',
      rate: Number(required('BENCH_RATE')),
      timeUnit: '1s',
      duration,
      preAllocatedVUs: vus,
      maxVUs: vus,
      gracefulStop: '10s',
    };
  }
  throw new Error(`BENCH_MODE is '${mode}', allowed are closed and open`);
}

function heavyScenario() {
  const clients = Number(__ENV.BENCH_HEAVY_VUS || 4);
  return { executor: 'constant-vus', vus: clients, duration, gracefulStop: '10s', exec: 'heavy' };
}

export function heavy() {
  const response = http.get(heavyUrl, { redirects: 0, timeout: params.timeout });
  (response.status === 200 ? heavyOk : heavyFailed).add(1);
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
