// Asks over HTTP/2 as Node's own client does, twenty times at once on one connection. Standard input and output are those
// of client.py.
import { readFileSync } from 'node:fs'
import { connect } from 'node:http2'

const ask = async ({ url, ca, headers, certificate, key }) => {
  const { origin, pathname } = new URL(url)
  const file = (path) => path && readFileSync(path)
  const session = connect(origin, { ca: file(ca), cert: file(certificate), key: file(key) })
  const failed = new Promise((_, reject) => session.on('error', reject))
  const one = () =>
    new Promise((resolve, reject) => {
      const stream = session.request({ ':path': pathname, ...headers })
      let status
      let text = ''
      stream.setEncoding('utf8')
      stream.on('response', (answer) => (status = answer[':status']))
      stream.on('data', (part) => (text += part))
      stream.on('end', () => resolve([`HTTP/2`, status, text]))
      stream.on('error', reject)
      stream.end()
    })
  const answers = await Promise.race([failed, Promise.all(Array.from({ length: 20 }, one))])
  session.close()
  return answers
}

const answers = []
for (const one of JSON.parse(readFileSync(0, 'utf8'))) answers.push(await ask(one))
console.log(JSON.stringify(answers))
