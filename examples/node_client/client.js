// Submits slides from Node.js and prints their calls:  node client.js MODEL IMAGE...
// The contract comes from protos/gramserve.binpb, which holds every proto with all it imports; fields keep their names.
import { createHash, randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { basename, extname } from 'node:path';
import { promisify } from 'node:util';

import grpc from '@grpc/grpc-js';
import { loadFileDescriptorSetFromBuffer } from '@grpc/proto-loader';

const TARGET = process.env.GRAMSERVE_CLIENT_GATEWAY ?? '127.0.0.1:50051';
const PARENT = 'laboratories/default';
const CHUNK_BYTES = 1 << 20;

const descriptors = readFileSync(new URL('../../protos/gramserve.binpb', import.meta.url));
const { gramserve } = grpc.loadPackageDefinition(
  loadFileDescriptorSetFromBuffer(descriptors, { enums: String, longs: Number, defaults: true, oneofs: true }),
);
const credentials = grpc.credentials.createInsecure();
const images = new gramserve.v1.ImageService(TARGET, credentials);
const batches = new gramserve.v1.SlideBatchService(TARGET, credentials);
const call = (service, method) => promisify(service[method]).bind(service);

// Brings one image to the gateway; known bytes are not sent again.
async function uploadImage(bytes) {
  const sha256 = createHash('sha256').update(bytes).digest('hex');
  const { status } = await call(images, 'getImageUpload')({ parent: PARENT, sha256 });
  if (status.complete) return sha256;
  await new Promise((resolve, reject) => {
    const upload = images.uploadImage((error) => (error ? reject(error) : resolve()));
    const offset = status.next_offset;
    upload.write({ header: { parent: PARENT, sha256, size_bytes: bytes.length, offset } });
    for (let start = offset; start < bytes.length; start += CHUNK_BYTES) {
      upload.write({ chunk: bytes.subarray(start, start + CHUNK_BYTES) });
    }
    upload.end();
  });
  return sha256;
}

// Follows a batch to its end, going on from the last sequence when the connection breaks.
async function watch(name) {
  let afterSequence = 0;
  for (let ended = false; !ended; ) {
    try {
      for await (const event of batches.watchSlideBatch({ name, after_sequence: afterSequence })) {
        afterSequence = Math.max(afterSequence, event.sequence);
        if (event.event === 'slide') console.log(event.slide.slide_id, event.slide.state.replace('STATE_', ''));
        ended = event.event === 'slide_batch' && /SUCCEEDED|FAILED|CANCELLED|EXPIRED/.test(event.slide_batch.state);
      }
    } catch (error) {
      if (error.code !== grpc.status.UNAVAILABLE) throw error;
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  }
}

async function main([model, ...files]) {
  const slides = [];
  for (const file of files) {
    const sha256 = await uploadImage(readFileSync(file));
    slides.push({ slide_id: basename(file, extname(file)), images: [{ sha256 }] });
  }
  // Keep request_id to repeat this call safely: the same id never makes a second batch.
  const batch = await call(batches, 'createSlideBatch')({
    parent: PARENT,
    slide_batch: { model: `models/${model}`, slides },
    request_id: randomUUID(),
  });
  console.log(`${batch.name} runs with ${batch.model_version}`);
  await watch(batch.name);
  for (let pageToken = ''; pageToken !== null; ) {
    const page = await call(batches, 'listSlides')({ parent: batch.name, page_token: pageToken });
    for (const { slide_id: slideId, call: result, error } of page.slides) {
      const found = result?.findings.map(({ label, probability }) => `${label} ${probability.toFixed(2)}`).join(', ');
      const outcome = result?.outcome.replace('OUTCOME_', '');
      console.log(slideId, error ? error.message : outcome, found ?? '', result?.review_required ? '(review)' : '');
    }
    pageToken = page.next_page_token || null;
  }
}

main(process.argv.slice(2)).then(
  () => process.exit(0),
  (error) => {
    console.error(`${error.code ?? ''} ${error.details ?? error.message}`);
    process.exit(2);
  },
);
