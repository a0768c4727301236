# Writes orders, each with its event in the same transaction: both are committed, or neither.
#
# gem install pg
require "json"
require "pg"

first, count = ENV.fetch("FIRST", "1").to_i, ENV.fetch("COUNT", "20").to_i
db = PG.connect(ENV.fetch("DATABASE_URL"))
(first...first + count).each do |order|
  db.transaction do
    db.exec_params("INSERT INTO orders (id) VALUES ($1)", [order])
    db.exec_params(
      "SELECT pgoutbox.enqueue(topic => 'order.paid', payload => $1, aggregate_type => 'order', aggregate_id => $2)",
      [{ order: order, step: 1 }.to_json, order.to_s]
    )
  end
end
