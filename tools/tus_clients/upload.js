// One upload by tus-js-client: upload.js ENDPOINT FILE [option=value…] [slow] [url=FILE] [from=URL]

const fs = require('node:fs')
const { PassThrough } = require('node:stream')
const tus = require('tus-js-client')

const [endpoint, path, ...words] = process.argv.slice(2)
const options = { chunkSize: Infinity }
let file = fs.createReadStream(path)
for (const word of words) {
  const [name, value] = word.split(/=(.*)/s)
  if (name === 'url') options.onUploadUrlAvailable = () => fs.writeFileSync(value, upload.url)
  else if (name === 'from') options.uploadUrl = value
  else if (name === 'slow') options.chunkSize = 1_000_000
  else options[name] = value === 'true' || Number(value)
}
// This client takes a file's last piece to be a whole one where it is not to know the length; of a stream it does not.
if (options.uploadLengthDeferred) file = file.pipe(new PassThrough())
const isSlow = words.includes('slow')
const upload = new tus.Upload(file, {
  endpoint,
  uploadSize: options.uploadLengthDeferred || options.parallelUploads ? undefined : fs.statSync(path).size,
  retryDelays: Array(100).fill(200),
  metadata: { filename: 'file', filetype: 'application/x-test' },
  // A client that is not in a hurry.
  onBeforeRequest: () => (isSlow ? new Promise((done) => setTimeout(done, 100)) : undefined),
  onError: (error) => {
    console.error(String(error))
    process.exit(1)
  },
  onSuccess: () => process.exit(0),
  ...options,
})
upload.start()
